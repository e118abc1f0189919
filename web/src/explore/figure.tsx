/** The network as its paper draws it, from the photo to the classes: stages that unfold to blocks, layers, operations. */

import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { baseName, percent, whole } from "../format";
import type { Cost, Network, Part, View } from "./document";
import { type Box, type Drawing, layout, type Line } from "./figure_layout";
import { arrowOf, bandPath } from "./figure_lines";
import { get, page, select, selectedIn, set, t, useChosen } from "./state";
import { className, figureTexts, heatOf, highestShare, saidText, shareText, totalText } from "./words";

const COSTS: Cost[] = ["parameters", "macs", "bytes", "ms"];

interface Props {
  network: Network;
  /** The views that show this network. */
  views: View[];
  /** "A" or "B" where there are two figures. */
  label?: string | undefined;
}

export function Figure({ network, views, label }: Props) {
  const language = useChosen((state) => state.language);
  const unfolded = useChosen((state) => state.unfolded);
  const cost = useChosen((state) => state.cost);
  const [width, setWidth] = useState(0);
  const area = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const element = area.current!;
    const measure = () => setWidth(Math.floor(element.clientWidth));
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);
  const drawing = useMemo(() => (width ? layout(network, unfolded, width) : null), [network, unfolded, width]);
  const most = useMemo(
    () => (cost && drawing ? highestShare(drawing.boxes, network, cost) : 0),
    [drawing, cost],
  );
  return (
    <details class="panel figure" open lang={language}>
      <summary>
        <h2>
          {label && <span class="view-mark">{label}</span>} {t("figure.title", { name: network.name })}
        </h2>
      </summary>
      <Toolbar network={network} />
      {cost && <Legend cost={cost} network={network} most={most} />}
      <div class="figure-scroll scroll">
        <div class="figure-area" ref={area} />
        <Ends views={views} width={drawing?.width} />
        {drawing && <Tree drawing={drawing} network={network} cost={cost} most={most} />}
        <ol class="figure-out" style={drawing ? { width: `${drawing.width}px` } : {}} aria-label={t("figure.classes", { count: whole(network.classes) })}>
          {views.map((view, index) => (
            <li key={index}>
              <b>{className(view.predictions[0]!.name)}</b> <span class="number">{percent(view.predictions[0]!.probability)}</span>
            </li>
          ))}
        </ol>
      </div>
    </details>
  );
}

/** The pictures that go in at the top. */
function Ends({ views, width }: { views: View[]; width: number | undefined }) {
  return (
    <div class="figure-in" style={width ? { width: `${width}px` } : {}}>
      {views.map((view, index) => (
        <span key={index}>
          <img src={view.photo.input} alt="" /> {baseName(view.photo.name)}
        </span>
      ))}
    </div>
  );
}

function Toolbar({ network }: { network: Network }) {
  const cost = useChosen((state) => state.cost);
  const costs = COSTS.filter((each) => network[each] !== null);
  const own = network.parts.filter((part) => part.children.length).map((part) => part.id);
  return (
    <div class="row figure-tools">
      <label class="field inline">
        {t("figure.colour")}
        <select value={cost ?? ""} onChange={(event) => set({ cost: (event.currentTarget.value || null) as Cost | null })}>
          {costs.map((each) => (
            <option key={each} value={each}>
              {t(`cost.${each}`)}
            </option>
          ))}
          <option value="">{t("cost.none")}</option>
        </select>
      </label>
      <div class="row tight end">
        <button type="button" class="button small quiet" onClick={() => set({ unfolded: new Set([...get().unfolded, ...own]) })}>
          {t("figure.unfold_all")}
        </button>
        <button type="button" class="button small quiet" onClick={() => set({ unfolded: new Set([...get().unfolded].filter((id) => !own.includes(id))) })}>
          {t("figure.fold_all")}
        </button>
      </div>
    </div>
  );
}

function Legend({ cost, network, most }: { cost: Cost; network: Network; most: number }) {
  return (
    <div class="legend">
      <span class="number">0 %</span>
      <span class="legend-ramp" aria-hidden="true" />
      <span class="number">{percent(most)}</span>
      <span class="soft small">{t("figure.legend", { total: totalText(network, cost) })}</span>
    </div>
  );
}

interface TreeProps {
  drawing: Drawing;
  network: Network;
  cost: Cost | null;
  most: number;
}

function Tree({ drawing, network, cost, most }: TreeProps) {
  const selected = useChosen(() => selectedIn(page.networks.indexOf(network)));
  const language = useChosen((state) => state.language);
  const [focused, setFocused] = useState(selected);
  const tree = useRef<HTMLDivElement>(null);
  const { boxes } = drawing;
  const parts = useMemo(() => new Map(network.parts.map((part) => [part.id, part])), [network]);
  const current = boxes.some((box) => box.part.id === focused) ? focused : (boxes.find((box) => box.part.id === selected) ?? boxes[0]!).part.id;
  const last = useRef(selected);
  useLayoutEffect(() => {
    if (last.current === selected) return;
    last.current = selected;
    setFocused(selected);
    tree.current?.querySelector(`[data-part="${CSS.escape(selected)}"]`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [selected, drawing]);
  const go = (id: string | undefined | null) => {
    const element = id && tree.current?.querySelector<HTMLElement>(`[data-part="${CSS.escape(id)}"]`);
    if (element) {
      setFocused(id);
      element.focus();
    }
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = boxes.findIndex((box) => box.part.id === current);
    const { part, open } = boxes[at]!;
    const steps: Record<string, () => void> = {
      ArrowDown: () => go(boxes[at + 1]?.part.id),
      ArrowUp: () => go(boxes[at - 1]?.part.id),
      Home: () => go(boxes[0]!.part.id),
      End: () => go(boxes.at(-1)!.part.id),
      ArrowRight: () => (open ? go(part.children[0]) : toggle(part, true)),
      ArrowLeft: () => (open ? toggle(part, false) : go(part.parent)),
      Enter: () => select(part.id),
      " ": () => select(part.id),
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    step();
  };
  // The texts are in the language that the page is in.
  const items = useMemo(
    () => boxes.map((box) => <Item key={box.part.id} box={box} network={network} parent={box.part.parent ? parts.get(box.part.parent) : undefined} cost={cost} most={most} selected={box.part.id === selected} focusable={box.part.id === current} />),
    [drawing, network, cost, most, selected, current, language],
  );
  return (
    <div class="figure-drawing" style={{ width: `${drawing.width}px`, height: `${drawing.height}px` }}>
      <div
        role="tree"
        aria-label={t("figure.tree", { name: network.name })}
        ref={tree}
        onKeyDown={onKeyDown}
        onClick={(event) => {
          const element = (event.target as Element).closest<HTMLElement>("[data-part]");
          const part = element && parts.get(element.dataset["part"]!);
          if (!part) return;
          setFocused(part.id);
          // The sign is too small to be hit in a narrow box: there, and anywhere, choosing the part again unfolds it.
          if ((event.target as Element).closest(".twist") || part.id === get().selected) toggle(part);
          else select(part.id);
        }}
      >
        {items}
      </div>
      <Lines drawing={drawing} />
    </div>
  );
}

function toggle(part: Part, open = !get().unfolded.has(part.id)): void {
  if (!part.children.length) return;
  const unfolded = new Set(get().unfolded);
  if (open) unfolded.add(part.id);
  else unfolded.delete(part.id);
  set({ unfolded });
}

interface ItemProps {
  box: Box;
  network: Network;
  parent: Part | undefined;
  cost: Cost | null;
  most: number;
  selected: boolean;
  focusable: boolean;
}

function Item({ box, network, parent, cost, most, selected, focusable }: ItemProps) {
  const { part } = box;
  const isNarrow = box.width < 150;
  const [title, detail] = figureTexts(part, parent);
  const said = saidText(part, network, cost);
  const heat = cost && !box.open ? heatOf(part, network, cost, most) : 0;
  return (
    <div
      role="treeitem"
      data-part={part.id}
      class={`part part-${part.level} ${box.open ? "open" : ""} ${cost && !box.open ? "hot" : ""} ${isNarrow ? "narrow" : ""} ${box.width < 100 ? "narrowest" : ""}`}
      aria-label={said}
      aria-level={box.level}
      aria-posinset={box.place}
      aria-setsize={box.of}
      aria-selected={selected}
      {...(part.children.length ? { "aria-expanded": box.open } : {})}
      tabIndex={focusable ? 0 : -1}
      title={said}
      style={{ left: `${box.x}px`, top: `${box.y}px`, width: `${box.width}px`, height: `${box.height}px`, "--heat": String(heat) }}
    >
      <div class="part-head" style={{ height: `${box.head}px` }}>
        {part.children.length > 0 && (
          <span class="twist" aria-hidden="true">
            {box.open ? "−" : "+"}
          </span>
        )}
        <span class="part-words">
          <b>{title}</b>
          <span class="part-kind">{isNarrow && cost ? shareText(part, network, cost) : detail}</span>
        </span>
        {!isNarrow && cost && <span class="part-share number">{shareText(part, network, cost)}</span>}
      </div>
    </div>
  );
}

/** Arrows with the shapes on them, and the bands of dense blocks. */
function Lines({ drawing }: { drawing: Drawing }) {
  return (
    <svg class="figure-lines" width={drawing.width} height={drawing.height} aria-hidden="true" focusable="false">
      {drawing.bands.map((band, index) => (
        <path key={index} class="band" d={bandPath(band)} />
      ))}
      {drawing.lines.map((line, index) => (
        <Arrow key={index} line={line} />
      ))}
    </svg>
  );
}

function Arrow({ line }: { line: Line }) {
  const { line: path, tip, label } = arrowOf(line);
  return (
    <>
      <path class={`line ${line.kind}`} d={path} />
      <path class={`line ${line.kind} tip`} d={tip} />
      {label?.ground && <rect {...label.ground} />}
      {label && (
        <text x={label.x} y={label.y} text-anchor={label.ground ? "middle" : "start"} class={label.isTight ? "tight" : ""}>
          {label.text}
        </text>
      )}
    </>
  );
}
