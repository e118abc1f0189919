/** The second tab: a model's card, its anatomy, its classes, and how to call it. */

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import type { Card, Model } from "../api";
import { className, counted, percent, short, whole } from "../format";
import { type About, store, useStore } from "../store";
import { AnatomyView } from "./anatomy";
import { Icon } from "./icons";

export function ModelPage() {
  const { model, about } = useStore();
  if (!model) return <p class="nothing">Waiting for the server…</p>;
  const found = about.get(model.name);
  if (!found) return <p class="nothing">Reading the card…</p>;
  if (found instanceof Error) {
    return (
      <div class="nothing" role="alert">
        <p>The card could not be read. {found.name === "Error" ? found.message : ""}</p>
        <button type="button" class="button" onClick={() => void store.learn()}>
          <Icon name="again" /> Try again
        </button>
      </div>
    );
  }
  return <Contents model={model} about={found} key={model.name} />;
}

function Contents({ model, about }: { model: Model; about: About }) {
  const { card, classes, anatomy } = about;
  return (
    <div class="page model">
      <header class="model-head">
        <h2>{model.name}</h2>
        <p class="lead">
          {model.name === card.architecture ? "" : `${card.architecture}, `}
          {counted(classes.length, "class", "classes")}, {card.precision}, running in {model.engine === "mnn" ? "MNN" : "ONNX Runtime"}.
        </p>
        {model.error && (
          <div class="callout error">
            <Icon name="alert" />
            <div>
              <h3>A newer file could not be loaded</h3>
              <p>{model.error}</p>
            </div>
          </div>
        )}
        <dl class="tiles">
          {anatomy && <Tile name="Parameters">{short(anatomy.parameters)}</Tile>}
          {anatomy && <Tile name="MACs per photo">{short(anatomy.macs)}</Tile>}
          <Tile name="Classes">{whole(classes.length)}</Tile>
          <Tile name="Input size">
            {card.preprocessing.crop_size} × {card.preprocessing.crop_size}
          </Tile>
          <Tile name="Threshold">{card.threshold === null ? "not set" : percent(card.threshold)}</Tile>
        </dl>
      </header>
      {anatomy ? (
        <AnatomyView anatomy={anatomy} classes={classes.length} />
      ) : (
        <section class="panel">
          <h3>Anatomy</h3>
          <p>The stages of this network cannot be read from its file.</p>
        </section>
      )}
      <div class="columns">
        <Preprocessing card={card} />
        <Metrics card={card} />
        <Provenance card={card} model={model} />
        <Call model={model} />
      </div>
      <Classes classes={classes} />
    </div>
  );
}

function Tile({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Preprocessing({ card }: { card: Card }) {
  const { crop_size, resize_size, crop_mode, interpolation, mean, std } = card.preprocessing;
  const numbers = (values: number[]) => values.map((value) => value.toFixed(3)).join(", ");
  return (
    <section class="panel">
      <h3>Preprocessing</h3>
      <ol class="steps">
        <li>
          {crop_mode === "squash" ? "Both sides become" : "The shorter side becomes"} {resize_size} pixels ({interpolation}).
        </li>
        {(crop_mode !== "squash" || crop_size < resize_size) && (
          <li>
            The centre, {crop_size} × {crop_size} pixels, is cut out. What is outside of it is not used.
          </li>
        )}
        <li>
          Values are scaled to 0–1 and normalised: mean {numbers(mean)}; standard deviation {numbers(std)}.
        </li>
        {card.temperature !== 1 && <li>Probabilities are calibrated with temperature {card.temperature.toFixed(3)}.</li>}
      </ol>
    </section>
  );
}

function Metrics({ card }: { card: Card }) {
  const sets = Object.entries(card.metrics);
  return (
    <section class="panel">
      <h3>Metrics</h3>
      {sets.length ? (
        <table class="facts-table">
          {sets.map(([set, measures]) => (
            <tbody key={set}>
              <tr>
                <th colSpan={2} scope="rowgroup">
                  {set}
                </th>
              </tr>
              {rows(measures).map(([name, value]) => (
                <tr key={name}>
                  <th scope="row">{measure(name)}</th>
                  <td>{value}</td>
                </tr>
              ))}
            </tbody>
          ))}
        </table>
      ) : (
        <p>The card has no measured accuracy. Try it on photos whose classes you know before you trust it.</p>
      )}
    </section>
  );
}

/** Measures may be nested; each value gets a line. */
function rows(value: unknown, path = ""): [string, string][] {
  if (value !== null && typeof value === "object") {
    return Object.entries(value).flatMap(([name, inner]) => rows(inner, path ? `${path} ${name}` : name));
  }
  const text = typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(5))) : String(value);
  return [[path || "value", text]];
}

const measure = (name: string): string => name.replace(/^acc@(\d)$/, "top-$1 accuracy, %").replaceAll("_", " ");

function Provenance({ card, model }: { card: Card; model: Model }) {
  const facts: [string, ComponentChildren][] = [
    ["Architecture", card.architecture],
    ["Weights", card.weights?.name ?? "random, or from a file without a name"],
  ];
  if (card.weights?.url) {
    const { url } = card.weights;
    facts.push(["From", /^https?:/.test(url) ? <a href={url} rel="noreferrer">{url}</a> : url]);
  }
  if (card.weights?.sha256) facts.push(["SHA-256", <code>{card.weights.sha256}</code>]);
  facts.push(["Licence", card.licence ?? "not stated"]);
  if (card.created) facts.push(["Exported", time(card.created)]);
  facts.push(["Loaded", time(model.loaded)]);
  facts.push(["Versions", Object.entries(card.versions).map(([name, version]) => `${name} ${version}`).join(", ")]);
  return (
    <section class="panel">
      <h3>Provenance</h3>
      <dl class="facts-list">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function time(iso: string): string {
  const date = new Date(iso);
  return Number.isNaN(date.valueOf()) ? iso : date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

function Call({ model }: { model: Model }) {
  const key = store.info?.auth ? " \\\n  -H 'Authorization: Bearer KEY'" : "";
  const address = new URL(`v1/predict?model=${encodeURIComponent(model.name)}&top=3`, location.href.split("#", 1)[0]);
  const command = `curl -F files=@photo.jpg${key} \\\n  '${address}'`;
  return (
    <section class="panel">
      <h3>Call it from a program</h3>
      <pre class="code" tabIndex={0} role="region" aria-label="Command"><code>{command}</code></pre>
      <div class="row">
        {"clipboard" in navigator && (
          <button
            type="button"
            class="button small"
            onClick={() =>
              navigator.clipboard.writeText(command).then(
                () => store.say("Copied."),
                () => store.tell("The browser did not let the page copy.", "error"),
              )
            }
          >
            <Icon name="copy" /> Copy
          </button>
        )}
        <a href="docs">All calls</a>
      </div>
    </section>
  );
}

function Classes({ classes }: { classes: string[] }) {
  const [text, setText] = useState("");
  const found = useMemo(() => {
    const wanted = text.trim().toLowerCase();
    return classes.map((name, index) => [name, index] as const).filter(([name]) => name.toLowerCase().includes(wanted));
  }, [classes, text]);
  return (
    <section class="panel" aria-labelledby="classes">
      <div class="classes-head">
        <h3 id="classes">Classes</h3>
        <label class="field inline">
          <span class="said">Search the classes</span>
          <input type="search" placeholder={`Search ${counted(classes.length, "class", "classes")}`} value={text} onInput={(event) => setText(event.currentTarget.value)} />
        </label>
      </div>
      <p class="soft small" role="status">
        {text ? `${whole(found.length)} of ${counted(classes.length, "class", "classes")}` : counted(classes.length, "class", "classes")}
      </p>
      {found.length ? (
        <ul class="classes" tabIndex={0} role="list" aria-labelledby="classes">
          {found.map(([name, index]) => (
            <li key={index}>
              <span class="soft number">{index}</span> {className(name)}
            </li>
          ))}
        </ul>
      ) : (
        <p>No class matches. A photo of something else gets the nearest class that there is.</p>
      )}
    </section>
  );
}
