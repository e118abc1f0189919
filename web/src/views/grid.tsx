/** Many photos: cards that draw their small picture when they come near, and only as many as were scrolled to. */

import { Component, createRef } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { baseName, className, percent, suffix } from "../format";
import type { Item } from "../items";
import { store, useStore } from "../store";
import * as thumbs from "../thumbs";
import { Icon } from "./icons";

const STEP = 96;

export function Grid() {
  const state = useStore();
  const [limit, setLimit] = useState(STEP);
  const [current, setCurrent] = useState(0);
  const list = useRef<HTMLUListElement>(null);
  const end = useRef<HTMLDivElement>(null);
  const { shown } = state;
  const cards = shown.slice(0, limit);
  const active = cards.some(({ id }) => id === current) ? current : (cards[0]?.id ?? 0);

  useEffect(() => {
    const observer = new IntersectionObserver(
      (entries) => {
        if (entries.some((entry) => entry.isIntersecting)) setLimit((count) => count + STEP);
      },
      { rootMargin: "800px" },
    );
    observer.observe(end.current!);
    return () => observer.disconnect();
  }, [limit]);

  const move = (event: KeyboardEvent) => {
    const buttons = [...list.current!.querySelectorAll<HTMLButtonElement>(".card")];
    const place = buttons.indexOf(document.activeElement as HTMLButtonElement);
    if (place < 0) return;
    const top = buttons[0]!.getBoundingClientRect().top;
    const found = buttons.findIndex((button) => button.getBoundingClientRect().top > top + 4);
    const columns = found < 0 ? buttons.length : found;
    const steps: Record<string, number> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -place,
      End: buttons.length - 1 - place,
    };
    const step = steps[event.key];
    if (step !== undefined) {
      event.preventDefault();
      buttons[Math.max(0, Math.min(buttons.length - 1, place + step))]!.focus();
    } else if (event.key === "Delete") {
      const item = cards[place];
      (buttons[place + 1] ?? buttons[place - 1])?.focus();
      if (item) state.remove(item);
    }
  };

  if (!shown.length) return <p class="nothing">No photo matches the filter.</p>;
  return (
    <>
      <h2 class="said">Photos</h2>
      <ul class="grid" ref={list} role="list" aria-label="Photos; arrow keys move, Enter opens, Delete removes" onKeyDown={move}>
        {cards.map((item) => (
          <CardView
            key={item.id}
            item={item}
            version={item.version}
            model={state.model?.name ?? ""}
            tab={item.id === active}
            onFocus={setCurrent}
          />
        ))}
      </ul>
      <div ref={end} />
    </>
  );
}

interface CardProps {
  item: Item;
  version: number;
  model: string;
  tab: boolean;
  onFocus: (id: number) => void;
}

class CardView extends Component<CardProps, { url: string | null | undefined }> {
  override state: { url: string | null | undefined } = { url: undefined };
  private readonly element = createRef<HTMLLIElement>();
  private observer: IntersectionObserver | null = null;

  override componentDidMount() {
    const { item } = this.props;
    this.observer = new IntersectionObserver(
      ([entry]) => {
        if (entry?.isIntersecting) thumbs.want(item, (url) => this.setState({ url }));
        else thumbs.unwant(item);
      },
      { rootMargin: "400px" },
    );
    this.observer.observe(this.element.current!);
  }

  override componentWillUnmount() {
    this.observer?.disconnect();
    thumbs.unwant(this.props.item);
  }

  override shouldComponentUpdate(next: CardProps, state: { url: string | null | undefined }) {
    const { item, version, model, tab } = this.props;
    return next.item !== item || next.version !== version || next.model !== model || next.tab !== tab || state.url !== this.state.url;
  }

  render({ item, model, tab, onFocus }: CardProps) {
    const outcome = item.outcomes.get(model);
    const { url } = this.state;
    const state = outcome?.state ?? "new";
    return (
      <li ref={this.element}>
        <button
          type="button"
          class={`card ${state}`}
          data-id={item.id}
          tabIndex={tab ? 0 : -1}
          onFocus={() => onFocus(item.id)}
          onClick={() => store.set({ open: item.id })}
        >
          <span class="thumb">
            {url ? <img src={url} alt="" onError={() => this.setState({ url: null })} /> : url === null && <NoPicture name={item.name} />}
          </span>
          <Verdict item={item} model={model} />
          <span class="file" title={item.name}>
            {baseName(item.name)}
          </span>
        </button>
      </li>
    );
  }
}

/** For a file that the server can read and this browser cannot show: its kind, in place of an empty tile. */
function NoPicture({ name }: { name: string }) {
  const kind = suffix(name);
  return (
    <span class="no-picture" title={`This browser cannot show ${kind || "these"} files; they are classified all the same.`}>
      <Icon name="file" />
      {kind}
    </span>
  );
}

function Verdict({ item, model }: { item: Item; model: string }) {
  const outcome = item.outcomes.get(model);
  if (outcome?.state === "failed") {
    return (
      <span class="verdict failed" title={outcome.message}>
        <Icon name="alert" /> <span>{outcome.message}</span>
      </span>
    );
  }
  if (outcome?.state !== "done") {
    const texts = { waiting: "waiting", sending: "classifying…", new: "not classified" };
    return <span class="verdict pending">{texts[outcome?.state ?? "new"]}</span>;
  }
  const { predictions, unsure } = outcome.result;
  const [first, second] = predictions;
  if (!first) return <span class="verdict pending">no class</span>;
  return (
    <span class="verdict">
      {unsure && (
        <span class="badge">
          <Icon name="doubt" /> unsure
        </span>
      )}
      <span class="verdict-line">
        <b title={className(first.class)}>{className(first.class)}</b> <span class="number">{percent(first.probability)}</span>
      </span>
      <span class="track" aria-hidden="true">
        <span class={unsure ? "fill unsure" : "fill"} style={{ width: `${100 * first.probability}%` }} />
      </span>
      {second && (
        <span class="verdict-line second">
          <span>{className(second.class)}</span> <span class="number">{percent(second.probability)}</span>
        </span>
      )}
    </span>
  );
}
