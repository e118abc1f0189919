/** All that is known of the selected part. */

import { PANELS } from "./panels";
import type { PanelProps } from "./state";

export function Inspector(props: PanelProps) {
  return (
    <>
      <h2 class="part-name">{props.part.name}</h2>
      {PANELS.map((Panel, index) => (
        <Panel key={index} {...props} />
      ))}
    </>
  );
}
