/** The first tab: an invitation, one photo, or many in a grid. */

import { save, table } from "../csv";
import { className, counted, duration, whole } from "../format";
import { EVERYTHING, failed, type Only, type Order, tally, unsure } from "../items";
import { store, useStore } from "../store";
import { Detail } from "./detail";
import { Grid } from "./grid";
import { Icon } from "./icons";
import { Sources } from "./sources";

export function Photos() {
  const state = useStore();
  const [only] = state.items;
  if (!only) return <Invitation />;
  if (state.items.length === 1) {
    return (
      <div class="page">
        <Tools />
        <section class="panel" aria-label={only.name}>
          <Detail item={only} key={only.id} />
        </section>
      </div>
    );
  }
  return (
    <div class="page">
      <Tools />
      <Filters />
      <Grid />
    </div>
  );
}

function Invitation() {
  const { model } = useStore();
  return (
    <div class="page invitation">
      <section class="dropzone" aria-labelledby="invitation">
        <Picture />
        <h2 id="invitation">What is in your photo?</h2>
        <p class="lead">
          Drop photos anywhere on this page, paste one, or choose some.
          {model && (
            <>
              {" "}
              <b>{model.name}</b> gives probabilities of {whole(model.classes)} classes, and a heat-map for each.
            </>
          )}
        </p>
        <Sources prominent />
        <p class="soft small by-key">
          <kbd>Ctrl</kbd> + <kbd>V</kbd> pastes a picture or a screenshot.
        </p>
      </section>
      <ul class="promises">
        <li>
          <h3>One photo or a thousand</h3>
          <p>A single photo is shown in detail. Many go into a grid that sorts, filters, and saves as a table.</p>
        </li>
        <li>
          <h3>Heat-maps</h3>
          <p>A heat-map over the photo shows which parts are evidence for a class; choose any class to compare.</p>
        </li>
        <li>
          <h3>It says when it is unsure</h3>
          <p>
            {model && model.threshold !== null
              ? `Below ${(100 * model.threshold).toFixed(0)} % for its best class, this model says so: the photo may show none of its classes.`
              : "Percentages are the model's own; a photo of a class that it was not trained on gets an answer too, so read low ones with care."}
          </p>
        </li>
      </ul>
      {model && (
        <p class="centre">
          <button type="button" class="link" onClick={() => store.show("model")}>
            What does {model.name} know, and how is it built?
          </button>
        </p>
      )}
    </div>
  );
}

/** A photo with its heat-map and bars. */
function Picture() {
  return (
    <svg class="hero" viewBox="0 0 280 132" aria-hidden="true" focusable="false">
      <rect class="hero-back" x="18" y="18" width="112" height="96" rx="10" />
      <rect class="hero-photo" x="30" y="8" width="116" height="104" rx="10" />
      <path class="hero-hill" d="M30 90l30-30 24 22 22-30 40 42v8a10 10 0 0 1-10 10H40a10 10 0 0 1-10-10z" />
      <circle class="hero-sun" cx="116" cy="34" r="9" />
      <circle class="hero-heat outer" cx="84" cy="72" r="32" />
      <circle class="hero-heat" cx="84" cy="72" r="19" />
      <rect class="hero-track" x="170" y="30" width="92" height="11" rx="5.5" />
      <rect class="hero-bar" x="170" y="30" width="76" height="11" rx="5.5" />
      <rect class="hero-track" x="170" y="54" width="92" height="11" rx="5.5" />
      <rect class="hero-bar dim" x="170" y="54" width="30" height="11" rx="5.5" />
      <rect class="hero-track" x="170" y="78" width="92" height="11" rx="5.5" />
      <rect class="hero-bar dim" x="170" y="78" width="14" height="11" rx="5.5" />
    </svg>
  );
}

function Tools() {
  const state = useStore();
  const name = state.model?.name ?? "results";
  const done = state.items.filter((item) => item.outcomes.get(name)?.state === "done" || failed(item, name)).length;
  return (
    <div class="tools">
      <Sources />
      <div class="row end">
        <button
          type="button"
          class="button"
          disabled={!done}
          onClick={() => save(table(state.shown, name, state.model?.threshold != null), `vertebra-${name}.csv`)}
        >
          <Icon name="table" /> Save CSV
          {state.shown.length < state.items.length && ` (${whole(state.shown.length)})`}
        </button>
        <button type="button" class="button" onClick={() => state.clear()}>
          <Icon name="trash" /> Clear
        </button>
      </div>
      <Progress />
      <Unseen />
    </div>
  );
}

function Progress() {
  const { queue } = useStore();
  if (queue.idle || (queue.total < 2 && !queue.paused)) return null;
  const rate = queue.rate;
  const left = queue.total - queue.done;
  return (
    <div class="progress">
      <progress max={queue.total} value={queue.done} aria-label="Photos classified" />
      <span class="progress-text">
        {whole(queue.done)} of {whole(queue.total)}
        {queue.paused ? " · paused" : rate ? ` · ${rate.toFixed(rate < 10 ? 1 : 0)} photos/s · ${duration(left / rate)} left` : ""}
      </span>
      <button type="button" class="button small" onClick={() => queue.pause(!queue.paused)}>
        <Icon name={queue.paused ? "play" : "pause"} /> {queue.paused ? "Go on" : "Pause"}
      </button>
    </div>
  );
}

/** After a change of model: many photos are only sent again when asked. */
function Unseen() {
  const state = useStore();
  const unseen = state.model ? state.unseen : [];
  if (!unseen.length) return null;
  return (
    <div class="progress">
      <span class="progress-text">
        {counted(unseen.length, "photo")} {unseen.length === 1 ? "has" : "have"} not been classified by {state.model!.name}.
      </span>
      <button type="button" class="button small" onClick={() => state.classify(unseen)}>
        <Icon name="play" /> Classify {unseen.length === 1 ? "it" : "them"}
      </button>
    </div>
  );
}

const ORDERS: [Order, string][] = [
  ["added", "as they came"],
  ["name", "by file name"],
  ["class", "by class"],
  ["most", "most sure first"],
  ["least", "least sure first"],
];

function Filters() {
  const state = useStore();
  const { view, items } = state;
  const name = state.model?.name ?? "";
  const doubtful = items.filter((item) => unsure(item, name)).length;
  const errors = items.filter((item) => failed(item, name)).length;
  const again = items.filter((item) => {
    const outcome = item.outcomes.get(name);
    return outcome?.state === "failed" && outcome.again;
  });
  const kinds: [Only, string, number][] = [["all", "All", items.length]];
  if (doubtful || view.only === "unsure") kinds.push(["unsure", "Unsure", doubtful]);
  if (errors || view.only === "errors") kinds.push(["errors", "Errors", errors]);
  const change = (part: Partial<typeof view>) => state.set({ view: { ...view, ...part } });
  return (
    <div class="filters" role="group" aria-label="Filter and sort">
      <div class="chips" role="group" aria-label="Which photos">
        {kinds.map(([only, title, count]) => (
          <button type="button" key={only} class={`chip ${only}`} aria-pressed={view.only === only} onClick={() => change({ only })}>
            {title} <span class="count">{whole(count)}</span>
          </button>
        ))}
      </div>
      {again.length > 0 && (
        <button type="button" class="button small" onClick={() => state.classify(again)}>
          <Icon name="again" /> Try {counted(again.length, "error")} again
        </button>
      )}
      <label class="field inline">
        <span class="said">Class</span>
        <select value={view.className} onChange={(event) => change({ className: event.currentTarget.value })}>
          <option value="">every class</option>
          {tally(items, name).map(([each, count]) => (
            <option key={each} value={each}>
              {className(each)} ({count})
            </option>
          ))}
        </select>
      </label>
      <label class="field inline">
        <span class="said">Sort</span>
        <select value={view.order} onChange={(event) => change({ order: event.currentTarget.value as Order })}>
          {ORDERS.map(([order, title]) => (
            <option key={order} value={order}>
              {title}
            </option>
          ))}
        </select>
      </label>
      <label class="field inline grow">
        <span class="said">Search by name or class</span>
        <input
          type="search"
          placeholder="Search by name or class"
          value={view.text}
          onInput={(event) => change({ text: event.currentTarget.value })}
        />
      </label>
      {state.shown.length < items.length && (
        <p class="soft" role="status">
          {whole(state.shown.length)} of {whole(items.length)} shown.{" "}
          <button type="button" class="link" onClick={() => state.set({ view: { ...EVERYTHING, order: view.order } })}>
            Show all
          </button>
        </p>
      )}
    </div>
  );
}
