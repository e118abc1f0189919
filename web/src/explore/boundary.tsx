/** Where something cannot be drawn, a sentence stands in its place, and all else of the page is as before. */

import { Component, type ComponentChildren } from "preact";
import { t } from "./state";

interface Props {
  children: ComponentChildren;
}

export class Boundary extends Component<Props, { reason: string | null }> {
  override state = { reason: null };

  static override getDerivedStateFromError(error: unknown) {
    return { reason: error instanceof Error ? error.message : String(error) };
  }

  override render() {
    const { reason } = this.state;
    return reason === null ? this.props.children : <p class="problem part-panel">{t("page.broken", { reason })}</p>;
  }
}
