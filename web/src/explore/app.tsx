/** The frame of the page. */

import type { Document } from "./document";

export function App({ found }: { found: Document }) {
  return (
    <main id="content" class="explore">
      <h1>{found.networks[0]!.name}</h1>
    </main>
  );
}
