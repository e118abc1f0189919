/** The frame: header, tabs, banners, and what can be done anywhere on the page. */

import { useEffect, useState } from "preact/hooks";
import { dropped, pasted } from "../files";
import { counted } from "../format";
import { store, type Tab, useStore } from "../store";
import type { Theme } from "../theme";
import { Camera } from "./camera";
import { DetailDialog } from "./detail";
import { Icon, Mark } from "./icons";
import { Lock } from "./lock";
import { ModelPage } from "./model";
import { Photos } from "./photos";
import { ThemeButton } from "./theme_button";

const TABS: [Tab, string][] = [
  ["photos", "Photos"],
  ["model", "Model"],
];

export function App() {
  const state = useStore();
  const dragging = useDrop();
  usePaste();
  useEffect(() => {
    const now = () => state.gone && void state.reconnect();
    addEventListener("online", now);
    return () => removeEventListener("online", now);
  }, []);
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => {
        event.preventDefault();
        document.getElementById("content")?.focus();
      }}>
        Skip to the content
      </a>
      <Header />
      <Banners />
      <main id="content" tabIndex={-1}>
        <div role="tabpanel" id="panel" aria-labelledby={`tab-${state.tab}`}>
          {state.tab === "photos" ? <Photos /> : <ModelPage />}
        </div>
      </main>
      <footer class="foot">
        <span>Vertebra {state.info?.version}</span>
        <a href="docs">API</a>
        <span>Photos go to this server only; it keeps none of them.</span>
      </footer>
      <div class="said" role="status" aria-live="polite">
        {state.said}
      </div>
      {dragging && (
        <div class="drop-veil" aria-hidden="true">
          <p>Drop to classify</p>
        </div>
      )}
      {state.open !== null && <DetailDialog id={state.open} />}
      {state.camera && <Camera />}
      {state.lock !== "closed" && <Lock wrong={state.lock === "wrong"} />}
    </>
  );
}

function Header() {
  const state = useStore();
  const move = (event: KeyboardEvent) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = state.tab === "photos" ? "model" : "photos";
    state.show(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return (
    <header class="head">
      <h1 class="brand">
        <Mark /> Vertebra
      </h1>
      <div class="tabs" role="tablist" aria-label="Views" onKeyDown={move}>
        {TABS.map(([tab, title]) => (
          <button
            type="button"
            role="tab"
            id={`tab-${tab}`}
            key={tab}
            aria-selected={state.tab === tab}
            aria-controls="panel"
            tabIndex={state.tab === tab ? 0 : -1}
            onClick={() => state.show(tab)}
          >
            {title}
          </button>
        ))}
      </div>
      <div class="head-end">
        {state.models.length > 1 ? (
          <label class="picker">
            <span class="soft">Model</span>
            <select value={state.model?.name} onChange={(event) => state.choose(event.currentTarget.value)}>
              {state.models.map(({ name }) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </select>
          </label>
        ) : (
          state.model && (
            <span class="picker">
              <span class="soft">Model</span> <b>{state.model.name}</b>
            </span>
          )
        )}
        <ThemeButton describe={colours} onChange={(theme) => store.say(`${colours(theme)}.`)} />
      </div>
    </header>
  );
}

const THEMES: Record<Theme, string> = { auto: "as the system", light: "light", dark: "dark" };
const colours = (theme: Theme): string => `Colours: ${THEMES[theme]}`;

function Banners() {
  const { gone, busy, note, queue } = useStore();
  return (
    <div class="banners">
      {gone && (
        <div class="banner error" role="alert">
          <Icon name="alert" />
          <p>
            <b>The server does not answer.</b> Trying again every few seconds
            {queue.left ? `; ${counted(queue.left, "photo")} will then go on` : ""}.
          </p>
          <button type="button" class="button small" onClick={() => void store.reconnect()}>
            Try now
          </button>
        </div>
      )}
      {busy && !gone && (
        <div class="banner" role="status">
          <Icon name="pause" />
          <p>
            <b>The server is busy.</b> {busy.message} The page tries again in {Math.ceil(busy.seconds)} s.
          </p>
        </div>
      )}
      {note && (
        <div class={`banner ${note.kind}`} role={note.kind === "error" ? "alert" : "status"}>
          <p>{note.text}</p>
          <button type="button" class="button quiet square" aria-label="Close this message" onClick={() => store.set({ note: null })}>
            <Icon name="close" />
          </button>
        </div>
      )}
    </div>
  );
}

/** Photos can be dropped anywhere; true while some hover. */
function useDrop(): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const carries = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const move = (event: DragEvent) => {
      if (!carries(event)) return;
      event.preventDefault();
      event.dataTransfer!.dropEffect = "copy";
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      // To another element of the page it goes on.
      if (event.relatedTarget === null) setOver(false);
    };
    const drop = (event: DragEvent) => {
      setOver(false);
      if (!carries(event)) return;
      event.preventDefault();
      if (store.lock === "closed") void dropped(event.dataTransfer).then((gathered) => store.add(gathered));
    };
    addEventListener("dragenter", move);
    addEventListener("dragover", move);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragenter", move);
      removeEventListener("dragover", move);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
    };
  }, []);
  return over;
}

function usePaste(): void {
  useEffect(() => {
    const paste = (event: ClipboardEvent) => {
      if (event.target instanceof Element && event.target.matches("input[type=text], input[type=search], input[type=password]")) return;
      const found = pasted(event.clipboardData);
      if (found.length) store.add({ found, leftOut: 0 });
      else store.tell("There is no image in the clipboard.", "error");
    };
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);
}
