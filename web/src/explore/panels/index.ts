/** The panels of a part in the order of the page; each returns null where it has nothing to say of a part. */

import type { FunctionComponent } from "preact";
import type { PanelProps } from "../state";

export const PANELS: FunctionComponent<PanelProps>[] = [];
