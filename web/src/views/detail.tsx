/** One photo with its classes, probabilities and heat-map. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Card, Heat, Model, Result } from "../api";
import { className, counted, percent, whole } from "../format";
import type { Item } from "../items";
import { store, useStore } from "../store";
import { Dialog } from "./dialog";
import { Icon } from "./icons";

const FIRST = 5;

export function DetailDialog({ id }: { id: number }) {
  const state = useStore();
  const { shown } = state;
  const item = state.items.find((each) => each.id === id);
  if (!item) return null;
  const place = shown.indexOf(item);
  const go = (step: number) => {
    const next = shown[place + step];
    if (next) state.set({ open: next.id });
  };
  return (
    <Dialog
      title={item.name}
      kind="viewer"
      onClose={() => state.set({ open: null })}
      returnTo={() => document.querySelector<HTMLElement>(`.card[data-id="${id}"]`)}
      onKeyDown={(event) => {
        if (event.target instanceof Element && event.target.matches("input")) return;
        if (event.key === "ArrowLeft") go(-1);
        if (event.key === "ArrowRight") go(1);
      }}
      tools={
        <div class="row tight">
          <button type="button" class="button quiet square" aria-label="Previous photo" disabled={place <= 0} onClick={() => go(-1)}>
            <Icon name="left" />
          </button>
          <span class="soft number">
            {place + 1} / {shown.length}
          </span>
          <button
            type="button"
            class="button quiet square"
            aria-label="Next photo"
            disabled={place < 0 || place >= shown.length - 1}
            onClick={() => go(1)}
          >
            <Icon name="right" />
          </button>
        </div>
      }
    >
      <Detail item={item} key={item.id} titled />
    </Dialog>
  );
}

export function Detail({ item, titled = false }: { item: Item; titled?: boolean }) {
  const state = useStore();
  const model = state.model;
  const outcome = model ? item.outcomes.get(model.name) : undefined;
  const result = outcome?.state === "done" ? outcome.result : null;
  const [index, setIndex] = useState<number | null>(null);
  const best = result?.predictions[0]?.index ?? null;
  const shown = index !== null && result?.predictions.some((each) => each.index === index) ? index : best;
  return (
    <div class="detail">
      <Photo item={item} model={model} result={result} index={shown} />
      <div class="findings">
        {!titled && <h2 class="soft file">{item.name}</h2>}
        {outcome?.state === "failed" && (
          <div class="callout error">
            <Icon name="alert" />
            <div>
              <h3>This photo could not be classified</h3>
              <p>{outcome.message}</p>
              {outcome.again && (
                <button type="button" class="button small" onClick={() => state.classify([item])}>
                  <Icon name="again" /> Try again
                </button>
              )}
            </div>
          </div>
        )}
        {!outcome && model && (
          <button type="button" class="button primary" onClick={() => state.classify([item])}>
            Classify with {model.name}
          </button>
        )}
        {(outcome?.state === "waiting" || outcome?.state === "sending") && <p class="looking">Classifying…</p>}
        {result && model && (
          <Findings
            result={result}
            model={model}
            index={state.heatOn ? shown : null}
            onChoose={(next) => {
              setIndex(next);
              if (!state.heatOn) state.set({ heat: { ...state.heat, wanted: true } });
            }}
          />
        )}
        <div class="row">
          <button type="button" class="button small" onClick={() => state.remove(item)}>
            <Icon name="trash" /> Remove
          </button>
        </div>
      </div>
    </div>
  );
}

interface FindingsProps {
  result: Result;
  model: Model;
  index: number | null;
  onChoose: (index: number) => void;
}

function Findings({ result, model, index, onChoose }: FindingsProps) {
  const [all, setAll] = useState(false);
  const first = result.predictions[0];
  const shown = all ? result.predictions : result.predictions.slice(0, FIRST);
  if (!first) return null;
  return (
    <>
      <div class="headline">
        <h3>{className(first.class)}</h3>
        <p class="big number">{percent(first.probability)}</p>
      </div>
      {result.unsure && (
        <div class="callout unsure">
          <Icon name="doubt" />
          <div>
            <h3>Unsure</h3>
            <p>
              The best class has {percent(first.probability)}, below this model's threshold of {percent(model.threshold ?? 0)}: the photo may show none
              of its classes.
            </p>
          </div>
        </div>
      )}
      <ol class="bars" aria-label="Best classes; choose one for its heat-map">
        {shown.map((each) => (
          <li key={each.index}>
            <button
              type="button"
              class="bar"
              aria-pressed={each.index === index}
              title={`Show the heat-map of ${className(each.class)}`}
              onClick={() => onChoose(each.index)}
            >
              <span class="bar-name">{className(each.class)}</span>
              <span class="number">{percent(each.probability)}</span>
              <span class="track" aria-hidden="true">
                <span class={result.unsure ? "fill unsure" : "fill"} style={{ width: `${100 * each.probability}%` }} />
                {model.threshold !== null && <span class="threshold" style={{ left: `${100 * model.threshold}%` }} />}
              </span>
            </button>
          </li>
        ))}
      </ol>
      {result.predictions.length > FIRST && (
        <button type="button" class="link" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "Fewer classes" : counted(result.predictions.length - FIRST, "more class", "more classes")}
        </button>
      )}
      <p class="soft small facts">
        {result.width && result.height && `${whole(result.width)} × ${whole(result.height)} pixels. `}
        {result.timing &&
          `Decoding ${ms(result.timing.decode_ms)}, inference ${ms(result.timing.inference_ms)}${
            result.timing.batch > 1 ? ` in a batch of ${result.timing.batch}` : ""
          }.`}
      </p>
    </>
  );
}

const ms = (value: number): string => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

interface PhotoProps {
  item: Item;
  model: Model | null;
  result: Result | null;
  index: number | null;
}

function Photo({ item, model, result, index }: PhotoProps) {
  const state = useStore();
  const url = useMemo(() => URL.createObjectURL(item.file), [item]);
  useEffect(() => () => URL.revokeObjectURL(url), [url]);
  /** Files that the server can read and this browser cannot: the server's own picture stands in. */
  const [foreign, setForeign] = useState(false);
  const [ratio, setRatio] = useState<[number, number] | null>(null);
  const { heatOn: on, heat: { opacity } } = state;
  const heat = useHeat(item, on && result ? index : null, model, foreign ? "overlay" : "heat");
  const about = model && state.about.get(model.name);
  const card = about && !(about instanceof Error) ? about.card : null;
  useEffect(() => {
    if (on && result) void state.learn();
  }, [on, result, model?.name]);
  const chosen = result?.predictions.find((each) => each.index === index);
  return (
    <figure class="figure">
      <div class={ratio ? "photo sized" : "photo"} style={ratio ? frame(...ratio) : {}}>
        {foreign ? (
          heat.found ? (
            <img class="base" src={heat.found.url} alt={item.name} />
          ) : (
            <p class="photo-text">
              <Icon name="file" />
              This browser cannot show files of this kind{result ? "; the server can." : "."}
            </p>
          )
        ) : (
          <img
            class="base"
            src={url}
            alt={item.name}
            onLoad={({ currentTarget: { naturalWidth, naturalHeight } }) => setRatio([naturalWidth, naturalHeight])}
            onError={() => setForeign(true)}
          />
        )}
        {on && result && !foreign && heat.found && (
          <>
            <img class="heat" src={heat.found.url} alt="" style={{ opacity: String(opacity) }} />
            {card && <span class="seen" style={cropBox(result, card)} />}
          </>
        )}
        {heat.busy && <span class="spinner" role="img" aria-label="The heat-map is being made" />}
      </div>
      {result && (
        <figcaption class="heat-tools">
          <label class="switch">
            <input
              type="checkbox"
              role="switch"
              checked={on}
              onChange={(event) => state.set({ heat: { ...state.heat, wanted: event.currentTarget.checked } })}
            />
            <span>Heat-map</span>
          </label>
          <label class="slider">
            <span>Opacity</span>
            <input
              type="range"
              min="0"
              max="100"
              step="5"
              disabled={!on || foreign}
              value={Math.round(100 * opacity)}
              aria-valuetext={`${Math.round(100 * opacity)} %`}
              onInput={(event) => state.set({ heat: { ...state.heat, opacity: Number(event.currentTarget.value) / 100 } })}
            />
          </label>
          {!on && model?.explain === "occlusion" && (
            <p class="soft small legend">Heat-maps of this model take longer: occlusion runs the network once for each part that is covered.</p>
          )}
          {on && heat.error && (
            <p class="problem" role="alert">
              {heat.error}
            </p>
          )}
          {on && heat.found && chosen && (
            <p class="soft small legend">
              <span class="scale" aria-hidden="true" /> Evidence for <b>{className(chosen.class)}</b>, weak to strong
              {heat.found.method === "occlusion" ? ", by occlusion" : ""}.
              {card && !foreign && " Dashed: the crop that is the network's input."}
            </p>
          )}
        </figcaption>
      )}
    </figure>
  );
}

/** The largest size that fits, at most twice the image's own. */
function frame(width: number, height: number): Record<string, string> {
  const ratio = width / height;
  return { aspectRatio: `${width} / ${height}`, width: `min(100%, ${66 * ratio}dvh, ${Math.max(320, 2 * width)}px)` };
}

interface HeatState {
  found: Heat | null;
  busy: boolean;
  error: string;
}

function useHeat(item: Item, index: number | null, model: Model | null, layer: "heat" | "overlay"): HeatState {
  const [heat, setHeat] = useState<HeatState>({ found: null, busy: false, error: "" });
  useEffect(() => {
    if (index === null) {
      setHeat({ found: null, busy: false, error: "" });
      return undefined;
    }
    let over = false;
    setHeat((last) => ({ ...last, busy: true, error: "" }));
    store.explain(item, index, layer).then(
      (found) => {
        if (!over) setHeat({ found, busy: false, error: "" });
      },
      (error: Error) => {
        const text = error.name === "Error" && error.message ? error.message : "The heat-map could not be made.";
        if (!over) setHeat({ found: null, busy: false, error: text });
      },
    );
    return () => {
      over = true;
    };
  }, [item, index, model?.name, layer]);
  return heat;
}

/** The crop that is the network's input: the shorter side is resized, or both are, and the centre cut out. */
function cropBox(result: Result, { preprocessing: { crop_size, resize_size, crop_mode } }: Card): Record<string, string> {
  const { width = 1, height = 1 } = result;
  const scale = (side: number) => resize_size / (crop_mode === "squash" ? side : Math.min(width, height));
  const share = (side: number) => Math.min(1, crop_size / (side * scale(side)));
  const [wide, high] = [share(width), share(height)];
  return {
    left: `${50 * (1 - wide)}%`,
    top: `${50 * (1 - high)}%`,
    width: `${100 * wide}%`,
    height: `${100 * high}%`,
  };
}
