/** A panel of the selected part: a section with a heading. */

import type { ComponentChildren } from "preact";

/** It has no name beside its heading: with one it would be a landmark, and two views would have two of the same name. */
export function Panel({ title, name, children }: { title: string; name: string; children: ComponentChildren }) {
  return (
    <section class={`part-panel ${name}-panel`}>
      <h3 tabIndex={-1}>{title}</h3>
      {children}
    </section>
  );
}
