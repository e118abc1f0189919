/** What a channel responds to: of a folder of photos, the patches that excite it most. */

import "./patches.css";
import type { Patches } from "../document";
import { significant } from "../numbers";
import { Panel } from "../panel";
import { set, t, useChosen, type PanelProps } from "../state";

export function PatchPanel({ view, network, part }: PanelProps) {
  useChosen((state) => state.language);
  const chosen = useChosen((state) => state.channel);
  const patches = network.patches;
  // A block may have the output of its stage.
  const last = part.rows.at(-1);
  const same = network.parts.find((other) => other.rows.at(-1) === last && patches?.parts[other.id]);
  if (!patches || !same) return null;
  const found = patches.parts[same.id]!;
  const channels = Object.keys(found).map(Number);
  if (!channels.length) return null;
  const strongest = view.parts[same.id]?.maps?.channels.find((number) => found[number]);
  const channel = chosen ?? strongest ?? channels[0]!;
  return (
    <Panel title={t("patches.title", { channel })} name="patches">
      <p>{t("patches.why", { count: patches.searched })}</p>
      <p>
        <label>
          {t("patches.choose")}{" "}
          <select
            value={found[channel] ? channel : ""}
            onChange={(event) => set({ channel: Number((event.target as HTMLSelectElement).value) })}
          >
            {!found[channel] && <option value="">{channel}</option>}
            {channels.map((number) => (
              <option key={number} value={number}>
                {number}
              </option>
            ))}
          </select>
        </label>
      </p>
      {found[channel] ? (
        <Found patches={patches} best={found[channel]!} />
      ) : (
        <p class="soft">{t("patches.none", { channel, channels: channels.join(", ") })}</p>
      )}
    </Panel>
  );
}

function Found({ patches, best }: { patches: Patches; best: [number, number, number][] }) {
  return (
    <ol class="patches">
      {best.map(([picture, value, photo], rank) => (
        <li key={rank}>
          <img src={patches.pictures[picture]!} alt={t("patches.alt", { photo: patches.photos[photo]! })} />
          <span class="number">{significant(value)}</span>
          <span class="soft name" title={patches.photos[photo]!}>
            {patches.photos[photo]!}
          </span>
        </li>
      ))}
    </ol>
  );
}
