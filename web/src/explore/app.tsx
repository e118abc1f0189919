/** The frame of the page: the photo and the answer, the network's figure, and the part that is selected. */

import { useEffect, useState } from "preact/hooks";
import { baseName, percent } from "../format";
import { Boundary } from "./boundary";
import type { ClassEvidence, Document, Network, PageNote, Part, View } from "./document";
import { Figure } from "./figure";
import { Header, Weights } from "./header";
import { Inspector } from "./inspector";
import { OVERVIEW } from "./panels";
import { significant, signed } from "./numbers";
import { ChannelLink, EvidenceHeat, show } from "./panels/evidence";
import { page, partOf, selectedIn, stageOf, t, useChosen } from "./state";
import { className, classOf } from "./words";

const TOP = 5;

export function App({ found }: { found: Document }) {
  const language = useChosen((state) => state.language);
  useEffect(() => void (document.documentElement.lang = language), [language]);
  const { views, networks } = found;
  return (
    <>
      <a
        class="skip"
        href="#content"
        onClick={(event) => {
          // The address holds the selected part.
          event.preventDefault();
          document.getElementById("content")?.focus();
        }}
      >
        {t("page.skip")}
      </a>
      <Header />
      <main id="content" tabIndex={-1} class={`explore views-${views.length} networks-${networks.length}`}>
        <div class="overviews">
          {views.map((view, index) => (
            <Overview key={index} view={view} />
          ))}
        </div>
        {networks.length === 1 ? (
          <div class="work">
            <Boundary>
              <Figure network={networks[0]!} views={views} />
            </Boundary>
            <div class="inspectors">
              {views.map((view, index) => (
                <Selected key={index} view={view} />
              ))}
            </div>
          </div>
        ) : (
          <div class="work">
            {views.map((view, index) => (
              <div class="side" key={index}>
                <Boundary>
                  <Figure network={networks[view.network]!} views={[view]} label={letter(view)} />
                </Boundary>
                <Selected view={view} />
              </div>
            ))}
          </div>
        )}
        <Notes found={found} />
      </main>
      <footer class="foot">
        <span>{t("page.made")}</span>
        <span>{t("page.offline")}</span>
      </footer>
    </>
  );
}

const networkOf = (view: View): Network => page.networks[view.network]!;
const letter = (view: View): string => "AB"[page.views.indexOf(view)]!;

/** Of two views each says which it is. */
const named = (view: View, name: string): string => (page.views.length > 1 ? `${letter(view)}: ${name}` : name);

/** Which of two views it is. */
function ViewLabel({ view }: { view: View }) {
  if (page.views.length < 2) return null;
  return (
    <p class="view-label">
      <span class="view-mark">{letter(view)}</span> <b>{networkOf(view).name}</b> · {baseName(view.photo.name)} · <Weights network={networkOf(view)} />
    </p>
  );
}

function Overview({ view }: { view: View }) {
  const network = networkOf(view);
  return (
    <section class="panel overview" aria-label={named(view, t("page.overview", { photo: baseName(view.photo.name) }))}>
      <ViewLabel view={view} />
      <div class="overview-parts">
        {OVERVIEW.map((Panel, index) => (
          <Boundary key={index}>
            <Panel view={view} network={network} />
          </Boundary>
        ))}
        <Boundary>
          <Answer view={view} />
        </Boundary>
      </div>
    </section>
  );
}

/** The best classes, and the evidence for the chosen one of them as a heat-map. */
function Answer({ view }: { view: View }) {
  const [chosen, setChosen] = useState(view.target);
  const found = view.evidence?.classes.find((each) => each.index === chosen);
  return (
    <div class="answer">
      <h2>{t("answer.title")}</h2>
      {networkOf(view).untrained && <p class="callout unsure small">{t("answer.untrained")}</p>}
      <div class="answer-body">
        {found && <EvidenceHeat view={view} found={found} name={classOf(view, chosen)} />}
        <ol class="answers" aria-label={t("answer.choose")}>
          {view.predictions.slice(0, TOP).map((each) => (
            <li key={each.index}>
              <button type="button" data-class={each.index} aria-pressed={each.index === chosen} onClick={() => setChosen(each.index)}>
                <span>{className(each.name)}</span>
                <span class="number">{percent(each.probability)}</span>
                <span class="track" aria-hidden="true">
                  <span class="fill" style={{ width: `${100 * each.probability}%` }} />
                </span>
              </button>
            </li>
          ))}
        </ol>
      </div>
      {found && <Strongest view={view} found={found} name={classOf(view, chosen)} />}
    </div>
  );
}

/** From the answer to where it comes from: the channel of the last map that contributes most to it. */
function Strongest({ view, found, name }: { view: View; found: ClassEvidence; name: string }) {
  const { part, channels } = view.evidence!;
  const [strongest] = found.for;
  const stage = stageOf(view.network, part);
  if (!strongest || !stage) return null;
  const [channel, contribution] = strongest;
  return (
    <p class="strongest">
      {t("answer.strongest", {
        name,
        count: channels,
        stage: stage.name,
        contribution: signed(contribution),
        logit: significant(found.logit, 4),
      })}{" "}
      <ChannelLink view={view} part={stage} channel={channel}>
        {t("answer.channel", { channel, stage: stage.name })}
      </ChannelLink>
      {isWorkedOut(view, stage, found, channel) && (
        <>
          {t("label.separator")}
          <button type="button" class="link" onClick={() => show(view, stage.id, "worked")}>
            {t("answer.worked")}
          </button>
        </>
      )}
    </p>
  );
}

/** Whether the value that is worked out of the stage is of this channel and class. */
function isWorkedOut(view: View, stage: Part, found: ClassEvidence, channel: number): boolean {
  const value = view.parts[stage.id]?.worked?.[0];
  return found.index === view.target && value?.refused === undefined && (value?.output ?? value?.cell)?.[0] === channel;
}

/** The selected part in a view; a network that lacks it keeps the one before, and says so. */
function Selected({ view }: { view: View }) {
  const selected = useChosen((state) => state.selected);
  const part = partOf(view.network, useChosen(() => selectedIn(view.network)))!;
  return (
    <section class="panel inspector" aria-label={named(view, t("page.inspector", { part: part.name }))}>
      <ViewLabel view={view} />
      {part.id !== selected && <Absent view={view} id={selected} />}
      <Inspector view={view} network={networkOf(view)} part={part} />
    </section>
  );
}

function Absent({ view, id }: { view: View; id: string }) {
  const other = page.networks.map((_, index) => partOf(index, id)).find(Boolean);
  return <p class="nothing">{t("page.absent", { network: networkOf(view).name, part: other?.name ?? id })}</p>;
}

const SHOWN = 3; // names of a list in a sentence

/** What was assumed or left out. */
function Notes({ found }: { found: Document }) {
  if (!found.notes.length) return null;
  return (
    <details class="panel notes">
      <summary>
        <h2>{t("page.notes", { count: found.notes.length })}</h2>
      </summary>
      <ul>
        {found.notes.map((note, index) => (
          <NoteItem key={index} note={note} />
        ))}
      </ul>
    </details>
  );
}

/** Of a list of names the first in the sentence, and all of them to be unfolded. */
function NoteItem({ note }: { note: PageNote }) {
  const values = Object.entries(note.values);
  const lists = values.flatMap(([, value]) => (Array.isArray(value) && value.length > SHOWN ? [value] : []));
  return (
    <li>
      {t(note.key, Object.fromEntries(values.map(([name, value]) => [name, Array.isArray(value) ? namesText(value) : value])))}
      {lists.map((names) => (
        <details class="small">
          <summary>{t("page.notes.all", { count: names.length })}</summary>
          {names.join(", ")}
        </details>
      ))}
    </li>
  );
}

function namesText(names: readonly string[]): string {
  const shown = names.slice(0, SHOWN).join(", ");
  return names.length > SHOWN ? t("page.notes.more", { names: shown, more: names.length - SHOWN }) : shown;
}
