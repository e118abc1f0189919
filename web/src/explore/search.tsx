/** Search for a part or a class; `/` goes there. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { percent } from "../format";
import { Icon } from "../views/icons";
import type { Part } from "./document";
import { page, select, t, useChosen } from "./state";
import { className, descriptionText, kindText, roleText, shapeText } from "./words";

const MOST = 12;

interface Hit {
  key: string;
  title: string;
  detail: string;
  open: () => void;
}

/** All parts of all networks once each, and the words by which they are found. */
const parts: Part[] = [...new Map(page.networks.flatMap((network) => network.parts).map((part) => [part.id, part])).values()];
function wordsOf(part: Part): string {
  return [part.name, part.type, part.role, kindText(part), roleText(part)].join(" ").toLowerCase();
}

/** How well a part fits, less is better; 9 is not at all. Of equal ones the outer comes first. */
function rank(part: Part, wanted: string, words: readonly string[], text: string): number {
  const name = part.name.toLowerCase();
  if (name === wanted) return 0;
  if (name.endsWith(`.${wanted}`)) return 1;
  if (name.startsWith(wanted)) return 2;
  if (part.role === wanted || part.type.toLowerCase() === wanted) return 3;
  return words.every((word) => text.includes(word)) ? 4 : 9;
}

export function find(wanted: string): { hits: Hit[]; count: number } {
  const text = wanted.trim().toLowerCase();
  if (!text) return { hits: [], count: 0 };
  const words = text.split(/\s+/);
  const classes = page.views
    .flatMap((view) => view.predictions)
    .filter((each, index, all) => all.findIndex((other) => other.index === each.index) === index)
    .filter((each) => words.every((word) => className(each.name).toLowerCase().includes(word)))
    .map((each) => ({
      key: `class/${each.index}`,
      title: className(each.name),
      detail: `${t("search.class")} · ${percent(each.probability)}`,
      open: () => openClass(each.index),
    }));
  const found = parts
    .map((part) => ({ part, fit: rank(part, text, words, wordsOf(part)) }))
    .filter(({ fit }) => fit < 9)
    .sort((a, b) => a.fit - b.fit);
  const hits = found.slice(0, MOST).map(({ part }) => ({
    key: part.id,
    title: part.name || part.type,
    detail: [t(`level.${part.level}`), descriptionText(part), shapeText(part.shape)].filter(Boolean).join(" · "),
    open: () => select(part.id),
  }));
  return { hits: [...classes.slice(0, 4), ...hits].slice(0, MOST), count: found.length + classes.length };
}

function openClass(index: number): void {
  const element = document.querySelector<HTMLElement>(`[data-class="${index}"]`);
  element?.scrollIntoView({ block: "center" });
  element?.focus();
}

export function Search() {
  const language = useChosen((state) => state.language);
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [open, setOpen] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const { hits, count } = useMemo(() => find(text), [text, language]);
  useEffect(() => {
    const slash = (event: KeyboardEvent) => {
      const inField = event.target instanceof Element && event.target.matches("input, select, textarea");
      if (event.key !== "/" || inField || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      input.current?.focus();
      input.current?.select();
    };
    addEventListener("keydown", slash);
    return () => removeEventListener("keydown", slash);
  }, []);
  const choose = (hit: Hit | undefined) => {
    if (!hit) return;
    setOpen(false);
    input.current?.blur();
    hit.open();
    // Where the reader goes on with the keyboard.
    if (!hit.key.startsWith("class/")) requestAnimationFrame(() => document.querySelector<HTMLElement>(`[data-part="${CSS.escape(hit.key)}"]`)?.focus());
  };
  const shown = open && text.trim() !== "";
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      setOpen(false);
      if (!shown) setText("");
    } else if (event.key === "Enter") choose(hits[at]);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setOpen(true);
      if (hits.length) setAt((at + (event.key === "ArrowDown" ? 1 : hits.length - 1)) % hits.length);
    }
  };
  return (
    <search class="search">
      <Icon name="search" />
      <input
        ref={input}
        type="text"
        role="combobox"
        aria-label={t("search.label")}
        aria-expanded={shown && hits.length > 0}
        aria-controls="search-hits"
        aria-autocomplete="list"
        aria-keyshortcuts="/"
        {...(shown && hits[at] ? { "aria-activedescendant": `hit-${at}` } : {})}
        placeholder={t("search.placeholder")}
        value={text}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setAt(0);
          setOpen(true);
        }}
        onFocus={() => setOpen(true)}
        onBlur={() => setOpen(false)}
        onKeyDown={onKeyDown}
      />
      <div class="hits" hidden={!shown}>
        <ul id="search-hits" role="listbox" aria-label={t("search.hits")}>
          {shown &&
            hits.map((hit, index) => (
              <li
                key={hit.key}
                id={`hit-${index}`}
                role="option"
                aria-selected={index === at}
                onMouseDown={(event) => {
                  event.preventDefault();
                  choose(hit);
                }}
              >
                <b>{hit.title}</b>
                <span class="small">{hit.detail}</span>
              </li>
            ))}
        </ul>
        <p class="small soft" role="status">
          {shown && (count ? t("search.count", { shown: hits.length, count }) : t("search.none"))}
        </p>
      </div>
    </search>
  );
}
