/** Evidence for the best classes: the heat-map over the photo, and the channels that speak for and against. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { percent, whole } from "../../format";
import type { ClassEvidence, Part, View } from "../document";
import { scrollTo } from "../hooks";
import { signed, significant } from "../numbers";
import { Panel } from "../panel";
import { page, select, stageOf, t, useChosen, type PanelProps } from "../state";
import { HeatMap } from "./picture";
import { largest } from "./special";
import { classOf } from "../words";
import { SignedBar } from "./vector";

/** Shown with the part of the last map, and with all behind it. */
export function EvidencePanel({ view, part }: PanelProps) {
  useChosen((state) => state.language);
  const { evidence } = view;
  if (!evidence || part.level === "operation" || Math.max(...part.rows) < evidence.row) return null;
  return (
    <Panel title={t("evidence.title")} name="evidence">
      <p>{t(`evidence.what_${evidence.formula}`, { name: evidence.name })}</p>
      <Evidence view={view} />
    </Panel>
  );
}

/** The heat-map of one of the best classes, and its strongest channels. */
function Evidence({ view }: { view: View }) {
  const { evidence, predictions } = view;
  const [chosen, setChosen] = useState(0);
  const found = evidence?.classes[chosen];
  if (!evidence || !found) return null;
  const name = classOf(view, found.index);
  return (
    <div class="stack">
      <div class="row" role="group" aria-label={t("evidence.classes")}>
        {evidence.classes.map((shown, index) => (
          <button
            key={shown.index}
            type="button"
            class="button small"
            aria-pressed={index === chosen}
            onClick={() => setChosen(index)}
          >
            {classOf(view, shown.index)}{" "}
            <span class="soft number">
              {percent(predictions.find(({ index }) => index === shown.index)!.probability)}
            </span>
          </button>
        ))}
      </div>
      <div class="evidence">
        <EvidenceHeat view={view} found={found} name={name} />
        <Channels view={view} found={found} count={evidence.channels} />
      </div>
      <p>{sum(found, name)}</p>
    </div>
  );
}

/** The heat-map of a class over the photo, with its scale. */
export function EvidenceHeat({ view, found, name }: { view: View; found: ClassEvidence; name: string }) {
  const { width, height } = view.evidence!;
  return (
    <figure class="heat">
      <div class="heat-photo">
        <img src={view.photo.input} alt={t("evidence.photo")} />
        <HeatMap cells={found.cells} label={t("evidence.heat", { name })} />
      </div>
      <figcaption class="small">
        <span class="legend">
          <span class="number">{significant(-largest(found.cells.flat()))}</span>
          <span class="ramp both" aria-hidden="true" />
          <span class="number">{signed(largest(found.cells.flat()))}</span>
        </span>{" "}
        <span class="soft">{t("evidence.cells", { width, height, name, layer: view.evidence!.name })}</span>
      </figcaption>
    </figure>
  );
}

/** How the contributions add up. */
function sum(found: ClassEvidence, name: string): string {
  const values = {
    name,
    positive: significant(found.positive),
    negative: significant(-found.negative),
    sum: significant(found.sum),
    logit: significant(found.logit, 4),
  };
  return found.bias === null
    ? t("evidence.sum_gradient", values)
    : t("evidence.sum_linear", { ...values, bias: significant(found.bias) });
}

/** Select a part, and go to one of its panels in a view. */
export function show(view: View, part: string, panel: string, channel: number | null = null): void {
  select(part, channel);
  requestAnimationFrame(() => {
    const inspectors = document.querySelectorAll(".inspector");
    const heading = inspectors[page.views.indexOf(view)]?.querySelector<HTMLElement>(`.${panel}-panel > h3`);
    if (!heading) return;
    scrollTo(heading);
    heading.focus({ preventScroll: true });
  });
}

/** To a channel's map among those of a part, where it is kept. */
export function ChannelLink({ view, part, channel, children }: { view: View; part: Part; channel: number; children: ComponentChildren }) {
  if (!view.parts[part.id]?.maps?.channels.includes(channel)) return <>{children}</>;
  return (
    <button type="button" class="link" onClick={() => show(view, part.id, "maps", channel)}>
      {children}
    </button>
  );
}

function Channels({ view, found, count }: { view: View; found: ClassEvidence; count: number }) {
  const stage = stageOf(view.network, view.evidence!.part);
  const most = largest([...found.for, ...found.against].map(([, value]) => value));
  return (
    <div class="stack evidence-channels">
      {(["for", "against"] as const).map((side) => (
        <div key={side}>
          <h4>{t(`evidence.${side}`)}</h4>
          {found[side].length === 0 && <p class="soft small">{t("evidence.none")}</p>}
          <ol class="channels">
            {found[side].map(([channel, value]) => (
              <li key={channel}>
                <span class="number">
                  {stage && (
                    <ChannelLink view={view} part={stage} channel={channel}>
                      {t("evidence.channel", { channel })}
                    </ChannelLink>
                  )}
                </span>
                <SignedBar value={value} most={most} />
                <span class="number">{signed(value)}</span>
              </li>
            ))}
          </ol>
        </div>
      ))}
      <p class="soft small">{t("evidence.of", { count: whole(count) })}</p>
    </div>
  );
}
