/** The panels, in the order of the page; each returns null where it has nothing to say. */

import type { FunctionComponent } from "preact";
import type { OverviewProps, PanelProps } from "../state";
import { ActivationPanel } from "./activations";
import { AdditionPanel } from "./additions";
import { BranchPanel } from "./branches";
import { DensePanel } from "./dense";
import { EvidencePanel } from "./evidence";
import { FieldPanel } from "./field";
import { GatePanel } from "./gates";
import { MapsPanel } from "./maps";
import { PatchPanel } from "./patches";
import { PhotoPanel } from "./photo";
import { SummaryPanel } from "./summary";
import { VectorPanel } from "./vector";
import { WorkedValuePanel } from "./worked_value";

/** Of the selected part. */
export const PANELS: FunctionComponent<PanelProps>[] = [
  SummaryPanel,
  MapsPanel,
  PatchPanel,
  FieldPanel,
  VectorPanel,
  EvidencePanel,
  GatePanel,
  AdditionPanel,
  BranchPanel,
  DensePanel,
  WorkedValuePanel,
  ActivationPanel,
];

/** Of the whole view, above the figure, before the answer: the photo's way into the network. */
export const OVERVIEW: FunctionComponent<OverviewProps>[] = [PhotoPanel];
