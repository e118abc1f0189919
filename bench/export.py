"""Writing a network as an ONNX graph: Vertebra beside `torch.onnx.export`, the same network in one process, by turns.

Both get the network with its normalisation and softmax and give a graph for batches of any size; what `vertebra export`
does besides (checking and proving) is not timed. The first call of each, which imports what it needs, is left out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import _common

NETWORKS = ("vgg11", "googlenet", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "efficientnet_v2_s")


def with_torch(deployed: Any, size: int) -> Any:
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            deployed,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            dynamo=True,
            input_names=["image"],
            dynamic_shapes={"image": {0: torch.export.Dim("N")}},
            verbose=False,
        )


def measure(n: int) -> Path:
    from vertebra.export.deployed_network import Deployed, trace
    from vertebra.export.export_copy import copy_for_export
    from vertebra.export.prepare_network import prepare

    rows: dict[str, Any] = {}
    for name in ("mobilenet_v2", *NETWORKS):
        prepared = prepare(name, weights=None)
        preprocessing = prepared.card.preprocessing
        network = copy_for_export(prepared.network, preprocessing)
        deployed = Deployed(network, preprocessing, 1.0).eval()
        calls = {
            "vertebra": partial(trace, network, preprocessing),
            "torch": partial(with_torch, deployed, preprocessing.crop_size),
        }
        seconds = _common.alternate(calls, n, warm=0)
        rows[name] = {key: _common.summary(found, digits=3) for key, found in seconds.items()}
        print(name, rows[name])
    return _common.write("export", ("torch", "onnx", "onnxscript"), {"rows": rows})


def render(document: dict[str, Any]) -> str:
    rows = []
    for name in NETWORKS:
        ours, theirs = (document["rows"][name][key] for key in ("vertebra", "torch"))
        rows.append(
            [name, f"{ours['median']:.2f}", f"{theirs['median']:.1f}", f"**{theirs['median'] / ours['median']:.0f}×**"]
        )
    text = _common.table(["seconds to the graph", "vertebra", "torch.onnx.export", "faster"], rows)
    return f"{text}\n\nMedian of {document['rows'][NETWORKS[0]]['torch']['n']}. {_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("export", measure, render, n=2)
