"""Draw the book's figures of networks: `docs/book/figures/NAME.svg`, and `NAME.ja.svg` in Japanese.

Each is the figure of `vertebra explore` as a file: the network is built without weights, `vertebra.explore` tells its
stages, blocks and layers, and the TypeScript that draws the page draws them. `make figures` runs it and needs Node.js,
as `make web` does. `.sources` beside the figures has digests of what they are drawn from, which a test compares.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vertebra.errors import VertebraError
from vertebra.explore.document import network
from vertebra.explore.observation import Structure, build_structure
from vertebra.explore.page import texts
from vertebra.explore.parts import INPUT, find_part
from vertebra.explore.subject import Subject
from vertebra.models import create_model, get_model_weights

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "book" / "figures"
PROGRAM = ROOT / "build" / "figures" / "figure_program.js"
# What draws: with the texts and the networks' parts it decides every byte.
DRAWING = ("figure_layout.ts", "figure_lines.ts", "figure_program.ts", "figure_svg.ts", "texts.ts", "words.ts")
TEXTS = ("cost.", "figure.", "label.", "role.", "total.", "type.")  # beginnings of their keys


@dataclass(frozen=True)
class Panel:
    """A network, or one part of it, as it is drawn."""

    network: str
    part: str = ""  # name of the only part that is drawn, unfolded; "": the whole network
    unfolded: tuple[str, ...] = ()  # names of the parts in it that are unfolded
    cost: str | None = None  # what colours it: "parameters", "macs" or "bytes"
    operations: bool = False  # whether the operations of each layer stand in its box
    width: int = 400  # of 700


def whole(name: str, cost: str = "parameters", width: int = 440) -> Panel:
    """The stages of a network, coloured by their share of a cost."""
    return Panel(name, cost=cost, width=width)


def block(name: str, part: str, width: int = 470, unfolded: tuple[str, ...] = ()) -> Panel:
    """One block of a network with its layers, and the operations of each."""
    return Panel(name, part, unfolded, operations=True, width=width)


FIGURES: dict[str, tuple[Panel, ...]] = {
    "vgg16-costs": (whole("vgg16", width=320), whole("vgg16", "macs", width=320)),
    "vgg16-classifier": (Panel("vgg16", "classifier", cost="parameters", operations=True, width=520),),
    "googlenet": (whole("googlenet"),),
    "inception": (Panel("googlenet", "inception3a", width=680),),
    "googlenet-costs": (whole("googlenet", width=320), whole("googlenet", "macs", width=320)),
    "resnet50": (whole("resnet50"),),
    "basic-block": (block("resnet18", "layer1.0"),),
    "bottleneck": (block("resnet50", "layer2.1"),),
    "bottleneck-downsample": (block("resnet50", "layer2.0", width=680),),
    "densenet121": (whole("densenet121"),),
    "dense-block": (Panel("densenet121", "denseblock1", width=470),),
    "dense-layer": (block("densenet121", "features.denseblock1.denselayer2"),),
    "transition": (block("densenet121", "features.transition1"),),
    "mobilenet_v2": (whole("mobilenet_v2"),),
    "mobilenet_v2-costs": (whole("mobilenet_v2", "macs", width=320), whole("mobilenet_v2", "bytes", width=320)),
    "inverted-residual": (block("mobilenet_v2", "features.3"),),
    "efficientnet_b0": (whole("efficientnet_b0"),),
    "mbconv": (block("efficientnet_b0", "features.2.1"),),
    "efficientnet_v2_s": (whole("efficientnet_v2_s"),),
    "mbconv-and-fused": (
        Panel("efficientnet_v2_s", "features.4.1", width=320),
        Panel("efficientnet_v2_s", "features.2.1", width=320),
    ),
}
# Without what only adapts published weights or runs in training.
ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": {"aux_logits": False}}


@cache
def structure(name: str) -> Structure:
    """A network's parts; it has no weights, only their shapes."""
    with torch.device("meta"):
        built = create_model(name, **ARGUMENTS.get(name, {}))
    preprocessing = get_model_weights(name)["DEFAULT"].preprocessing
    return build_structure(Subject(name, built.eval(), preprocessing, (), "", is_untrained=True))


def close_up(told: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The network of which this part (an id) is all: what it reads is the input."""
    parts = {each["id"]: each for each in told["parts"]}
    within = [each for each in told["parts"] if _is_within(each, part, parts)]
    inside = {each["id"] for each in within}
    top = parts[part]
    drawn = [
        each
        | {"reads": [read if read in inside else INPUT for read in each["reads"]]}
        | ({"parent": None, "lane": 0, "rank": 0, "read_lanes": [0] * len(each["reads"])} if each is top else {})
        for each in within
    ]
    return {**told, "input": top["read_shapes"][0], "parts": drawn}


def _is_within(part: Mapping[str, Any], ancestor: str, parts: Mapping[str, Mapping[str, Any]]) -> bool:
    parent = part["parent"]
    return part["id"] == ancestor or (parent is not None and _is_within(parts[parent], ancestor, parts))


def drawn_panel(panel: Panel) -> dict[str, Any]:
    """What the TypeScript is given of a panel.

    Raises:
        UsageError: the network has no part of such a name; the nearest are given.
    """
    found = structure(panel.network)
    told = network(found)
    names = (panel.part, *panel.unfolded) if panel.part else panel.unfolded
    ids = [find_part(found.parts, name).id for name in names]
    shown = close_up(told, ids[0]) if panel.part else told
    return {"network": shown, "unfolded": ids, "cost": panel.cost, "operations": panel.operations, "width": panel.width}


def title(panels: tuple[Panel, ...]) -> str:
    """The title that a screen reader says: `resnet50 · layer2.1`."""
    return ", ".join(dict.fromkeys(" · ".join(filter(None, (panel.network, panel.part))) for panel in panels))


def figure_texts() -> dict[str, dict[str, str]]:
    """The texts of the page that figures have, by language and key."""
    return {
        language: {key: text for key, text in found.items() if key.startswith(TEXTS)}
        for language, found in texts().items()
    }


def sources() -> dict[str, str]:
    """Digests of what draws the figures: its sources and texts, and the table above."""
    folder = ROOT / "web" / "src" / "explore"
    digests = {name: _digest((folder / name).read_text(encoding="utf-8")) for name in DRAWING}
    return {**digests, "texts": _digest(json.dumps(figure_texts())), "figures": _digest(repr((FIGURES, ARGUMENTS)))}


def parts_digest(name: str) -> str:
    """A digest of a network's parts, shapes and costs."""
    return _digest(json.dumps(network(structure(name))))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw() -> dict[str, str]:
    """All figures by the name of their file.

    Raises:
        VertebraError: Node.js or the packages of `web/` are not there, or a text has no room in its box.
    """
    if shutil.which("npm") is None or not (ROOT / "web" / "node_modules").is_dir():
        raise VertebraError("the figures are drawn by TypeScript: install Node.js 20.19 or newer, then run make web")
    _run("npm", "run", "--silent", "figures", cwd=ROOT / "web")
    figures = {
        name: {"title": title(panels), "panels": [drawn_panel(panel) for panel in panels]}
        for name, panels in FIGURES.items()
    }
    answer = _run("node", str(PROGRAM), given=json.dumps({"texts": figure_texts(), "figures": figures}))
    files: dict[str, str] = json.loads(answer)
    return files


def _run(*command: str, given: str = "", cwd: Path = ROOT) -> str:
    done = subprocess.run(command, input=given, cwd=cwd, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise VertebraError(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return done.stdout


def main() -> None:
    """Write all figures, and remove those that the table does not have."""
    files = draw()
    networks = sorted({panel.network for panels in FIGURES.values() for panel in panels})
    digests = {"drawing": sources(), "networks": {name: parts_digest(name) for name in networks}}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in {path.name for path in FOLDER.glob("*.svg")} - files.keys():
        (FOLDER / old).unlink()
    for name, text in {**files, ".sources": json.dumps(digests, indent=1) + "\n"}.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        main()
    except VertebraError as error:
        sys.exit(f"make_figures: {error}")
