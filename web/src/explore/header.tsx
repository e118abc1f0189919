/** The header: which network, whose weights, and what can be done anywhere on the page. It stays in sight. */

import { useLayoutEffect, useRef } from "preact/hooks";
import { Mark } from "../views/icons";
import { ThemeButton } from "../views/theme_button";
import type { Language, Network } from "./document";
import { Search } from "./search";
import { page, set, t, useChosen } from "./state";

const LANGUAGES: [Language, string][] = [
  ["en", "EN"],
  ["ja", "日本語"],
];

export function Header() {
  const language = useChosen((state) => state.language);
  const header = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    // What sticks below the header has to know its height.
    const measure = () => document.documentElement.style.setProperty("--head", `${header.current!.offsetHeight}px`);
    const observer = new ResizeObserver(measure);
    observer.observe(header.current!);
    measure();
    return () => observer.disconnect();
  }, []);
  return (
    <header class="head explore-head" ref={header}>
      <h1 class="brand">
        <Mark />
        <span class="network-names">
          {page.networks.map((network, index) => (
            <span key={index} class="network-name">
              {page.networks.length > 1 && <span class="view-mark">{"AB"[page.views.findIndex((view) => view.network === index)]}</span>}
              {network.name} <Weights network={network} />
            </span>
          ))}
        </span>
      </h1>
      <div class="head-end">
        <Search />
        <div class="languages" role="group" aria-label={t("page.language")}>
          {LANGUAGES.map(([code, name]) => (
            <button key={code} type="button" lang={code} aria-pressed={code === language} onClick={() => set({ language: code })}>
              {name}
            </button>
          ))}
        </div>
        <ThemeButton describe={(theme) => t("page.theme", { theme: t(`theme.${theme}`) })} />
      </div>
    </header>
  );
}

/** "untrained", or where the weights are from. */
export function Weights({ network }: { network: Network }) {
  return network.untrained ? (
    <strong class="untrained" title={t("page.untrained_why")}>
      {t("untrained")}
    </strong>
  ) : (
    <span class="weights" title={network.weights}>
      {t("page.weights", { weights: network.weights })}
    </span>
  );
}
