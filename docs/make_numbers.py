"""Count what the book's text quotes of the networks: `python docs/make_numbers.py` writes docs/numbers/networks.json.

Each network at the image size of its weights, for one image: parameters, MACs, FLOPs (2 a MAC), memory traffic and
memory of weights in bytes, activations (values that convolutions and matrix products write), by stage too. The networks
of the walks through the source have a row for each operation besides.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import vertebra
from vertebra.graph.cost import CONVOLUTIONS, Kind

OUT = Path(__file__).parent / "numbers" / "networks.json"
WITH_LAYERS = (
    *("vgg16", "googlenet", "resnet18", "resnet50", "densenet121"),
    *("mobilenet_v2", "efficientnet_b0", "efficientnet_v2_s"),
)
COSTS = ("parameters", "macs", "flops", "bytes", "weight_bytes")
WEIGHTED = (*sorted(CONVOLUTIONS), Kind.MATMUL)


def counts(name: str) -> dict[str, Any]:
    """What is counted of a network."""
    profile = vertebra.inspect(name)
    found: dict[str, Any] = {each: getattr(profile, each) for each in COSTS}
    weighted = [row for row in profile.rows if row.kind in WEIGHTED]
    size = profile.input_shapes[0][-1]
    found |= {
        "parameter_bytes": profile.parameter_bytes,
        "activations": sum(prod(row.output_shape) for row in weighted),
        "peak_activation_bytes": profile.peak_activation_bytes,
        "size": size,
        "layers": len(weighted),
        "receptive_field": profile.receptive_field[0],
        "top1": top1(name),
        "top1_of": {weights.name: published_top1(weights) for weights in vertebra.get_model_weights(name)},
        "stages": {
            stage.name: {"parameters": stage.parameters, "macs": stage.macs, "bytes": stage.bytes}
            for stage in profile.stages
        },
        "kinds": {
            kind.name.lower(): {  # dense, pointwise, grouped, depthwise, matmul
                "layers": sum(row.kind == kind for row in weighted),
                "parameters": sum(row.parameters for row in weighted if row.kind == kind),
                "macs": sum(row.macs for row in weighted if row.kind == kind),
                "bytes": sum(row.bytes for row in weighted if row.kind == kind),
            }
            for kind in WEIGHTED
            if any(row.kind == kind for row in weighted)
        },
    }
    if name in WITH_LAYERS:
        found["rows"] = {
            row.name: {
                "parameters": row.parameters,
                "macs": row.macs,
                "bytes": row.bytes,
                "output": list(row.output_shape[1:]),
                "receptive_field": row.receptive_field[0] if row.receptive_field else None,
            }
            for row in profile.rows
        }
    return found


def top1(name: str) -> float | None:
    """Published ImageNet top-1 accuracy of the default weights, in percent."""
    return published_top1(vertebra.get_model_weights(name).DEFAULT)


def published_top1(weights: Any) -> float | None:
    """ImageNet top-1 accuracy of these weights, in percent; None where none is published."""
    found: float | None = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return found


def main() -> None:
    """Write them."""
    networks = {name: counts(name) for name in vertebra.list_models()}
    text = json.dumps({"vertebra": vertebra.__version__, "networks": networks}, indent=1)
    OUT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
