/** A panel of the selected part: a section with a heading. */

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

export function Panel({ title, name, children }: { title: string; name: string; children: ComponentChildren }) {
  const id = useId();
  return (
    <section class={`part-panel ${name}-panel`} aria-labelledby={id}>
      <h3 id={id}>{title}</h3>
      {children}
    </section>
  );
}
