"""`export`: prepare the network and its card → trace → verify against torch → quantise, where asked for → write."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from vertebra.card import METADATA_KEY, Card, CardError, locate_card, open_model_file
from vertebra.errors import ExportError, UsageError
from vertebra.files import check_writable, disk_is_full, make_folder, write_durably
from vertebra.model_checksum import BLANK, insert_checksum, read_verified_card
from vertebra.pixels import Pixels
from vertebra.progress import Progress, silent
from vertebra.synthetic_photos import synthetic_photos
from vertebra.units import size

from .accuracy_check import Calibration, points
from .deployed_network import OUTPUTS, trace
from .export_copy import copy_for_export
from .int8 import Int8Report, quantise
from .network_card import Prepared
from .observed_network import ObservedNetwork
from .onnx_model import OnnxModel, attribute
from .prepare_network import prepare
from .torch_check import verify_against_torch


@dataclass(frozen=True)
class ExportReport:
    """What was written, and the measurements made for it."""

    path: Path
    card: Card = field(repr=False)  # with all class names
    size: int  # bytes
    max_difference: float  # of any probability between torch and the float graph
    timings: dict[str, float] = field(default_factory=dict)  # seconds a step
    int8: Int8Report | None = None


def export(
    model: nn.Module | Prepared | str | Path,
    out: str | os.PathLike[str],
    *,
    images: Sequence[Pixels] | None = None,
    calibration: Calibration | None = None,
    max_drop: float = 1.0,
    force: bool = False,
    require_proof: bool = False,
    progress: Progress | None = None,
    body: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ExportReport:
    """Write a network as one ONNX file.

    The graph takes `image`, uint8 (N, H, W, 3) RGB at the card's crop size, and gives `probabilities` (N, K),
    `embedding` (N, D), the input of the classifier, and `features` (N, C, h, w), the last feature map. Before anything
    is written it is compared with torch at batch sizes 1, 2 and 7.

    Args:
        model: a name, a path to a .pth or .safetensors file, any `nn.Module` that classifies, or what `prepare`
            returned.
        out: the file to write, ending in .onnx. A model there already is replaced once the new one is complete.
        images: pixels (H, W, 3) at the crop size to compare on. None: synthetic ones.
        calibration: photos to quantise by; with them the file is int8, and otherwise float32.
        max_drop: points of accuracy that int8 may lose.
        force: write an int8 file also where it is shown to lose more, or is slower than float.
        require_proof: write one only where the photos show, with 95 % confidence, that it loses no more.
        progress: called as the work advances.
        body: an exported file of the same network with another classifier. Its graph is taken, which saves tracing the
            network; a body of another network fails the comparison with torch.
        options: as `prepare` takes them (weights, architecture, classes, …).

    Raises:
        UsageError: an argument is not allowed, or an image not as it should be.
        WeightsError: the weights cannot be fetched or do not fit.
        ExportError: the graph differs from torch, int8 loses too much, is not proven not to, or is not faster, or the
            file cannot be written. Nothing is left behind.
    """
    path, progress = Path(out), progress or silent
    if max_drop < 0:
        raise UsageError(f"max_drop is {max_drop}; it is points of accuracy, 0 or more.")
    if require_proof and (force or calibration is None):
        raise UsageError(
            "require_proof writes an int8 file only where its loss is shown to be small: it needs calibration, and "
            "cannot go with force. Leave one out."
        )
    _validate_target(path)
    timings: dict[str, float] = {}
    progress("loading", 0, 3)
    with _timed(timings, "load"):
        prepared = model if isinstance(model, Prepared) else prepare(model, **options)
        card = prepared.card
        images = _checked_images(images, card.preprocessing.crop_size)
        network = copy_for_export(prepared.network, card.preprocessing)
    progress("tracing", 1, 3)
    with _timed(timings, "trace"):
        if body is None:
            graph = trace(network, card.preprocessing, card.temperature)
        elif isinstance(network, ObservedNetwork):
            raise UsageError("body= is for our own networks. Export this one without it.")
        else:
            graph = _replace_classifier(body, network.get_classifier(), card.temperature)
        onnx.checker.check_model(graph, full_check=True)
    progress("verifying", 2, 3)
    with _timed(timings, "prove"):
        difference = verify_against_torch(graph.SerializeToString(), network, card, images)
    report = None
    if calibration is not None:
        with _timed(timings, "quantise"):
            graph, report = quantise(
                graph,
                calibration,
                max_drop=max_drop,
                classes=card.classes,
                force=force,
                require_proof=require_proof,
                progress=progress,
            )
        metrics = {**card.metrics, "int8 beside float32": _int8_metrics(report)}
        card = replace(card, precision="int8", metrics=metrics)
    # The card has room for the checksum of the file that it is in.
    onnx.helper.set_model_props(graph, {METADATA_KEY: replace(card, content_sha256=BLANK).to_json()})
    content, digest = insert_checksum(graph.SerializeToString())
    try:
        write_durably(path, content)
    except OSError as error:
        raise _write_error(path, error, len(content)) from error
    progress("done", 3, 3)
    return ExportReport(path, replace(card, content_sha256=digest), len(content), difference, timings, report)


def _checked_images(images: Any, crop_size: int) -> Sequence[Pixels]:
    """Return synthetic ones where there are none; a UsageError if they are not pixels at the crop size."""
    wanted = f"({crop_size}, {crop_size}, 3) of uint8"
    given: Any = [images] if isinstance(images, (str, os.PathLike)) else [] if images is None else images
    for number, image in enumerate(given):
        is_array = isinstance(image, np.ndarray)
        found = f"({', '.join(map(str, image.shape))}) of {image.dtype}" if is_array else f"{image!r:.100}"
        if found != wanted:
            raise UsageError(
                f"images[{number}] is {found}; images takes pixels, arrays {wanted}. "
                "`vertebra export --images FOLDER` reads photos."
            )
    return given if len(given) else list(synthetic_photos(10, crop_size))


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    """Add the seconds of the body to `timings`."""
    started = time.perf_counter()
    yield
    timings[step] = round(time.perf_counter() - started, 3)


def _int8_metrics(report: Int8Report) -> dict[str, Any]:
    """For the card: scores and agreement in %, losses in points, each interval with 95 % confidence."""
    verdict = report.verdict
    low, high = (round(end, 2) for end in verdict.drop_interval)
    return {
        "photos": verdict.photos,
        "measure": verdict.measure,
        "float32": round(verdict.float_score, 2),
        "int8": round(verdict.int8_score, 2),
        "agreement": round(verdict.agreement, 2),
        "agreement interval": [round(end, 2) for end in verdict.agreement_interval],
        "loss" if verdict.measure == "accuracy" else "expected loss": round(verdict.drop, 2),
        **({"loss interval": [low, high]} if verdict.measure == "accuracy" else {"largest loss": high}),
        f"at most {points(report.max_drop)} lost": report.claim,
        "KL divergence": round(verdict.divergence, 5),
        "float32 ms": round(report.float_ms, 2),
        "int8 ms": round(report.int8_ms, 2),
    }


# --- the classifier alone ---------------------------------------------------------------------------------------------


def _replace_classifier(body: str | os.PathLike[str], classifier: nn.Module, temperature: float) -> onnx.ModelProto:
    """Replace the last linear layer of an exported graph; the temperature is folded into its weights."""
    read_verified_card(body)
    model = onnx.load(body)
    graph = OnnxModel(model)
    probabilities, embedding, _ = OUTPUTS
    softmax = graph.producer.get(probabilities)
    linear = graph.producer.get(softmax.input[0]) if softmax is not None and softmax.op_type == "Softmax" else None
    divided = linear if linear is not None and linear.op_type == "Div" else None  # by the old one's temperature
    if divided is not None:
        linear = graph.producer.get(divided.input[0])
    transposed = linear is not None and attribute(linear, "transB", 0) == 1  # (out, in), as torch has it
    if (
        linear is None
        or linear.op_type != "Gemm"
        or len(linear.input) != 3
        or linear.input[0] != embedding
        or type(classifier) is not nn.Linear
        or graph.weights[linear.input[1]].shape[1 if transposed else 0] != classifier.in_features
    ):
        raise UsageError(
            "the graph's classifier cannot be replaced: it must end in one linear layer over its embedding and a "
            "softmax, in float32, for as many features as the new one takes. Export the network without body=."
        )
    weight = (classifier.weight.detach().numpy() / temperature).astype(np.float32)
    # A layer without a bias has None there, whatever torch's annotation says.
    given: Any = classifier.bias
    bias = np.zeros(len(weight)) if given is None else given.detach().numpy() / temperature
    graph.set_weights({linear.input[1]: weight if transposed else weight.T, linear.input[2]: bias.astype(np.float32)})
    if divided is not None and softmax is not None:
        softmax.input[0] = divided.input[0]
        model.graph.node.remove(divided)
        graph.drop_unused()
    output = next(item for item in model.graph.output if item.name == probabilities)
    output.type.tensor_type.shape.dim[1].dim_value = len(weight)
    return model


# --- the file ---------------------------------------------------------------------------------------------------------


def _validate_target(path: Path) -> None:
    """Raise an error for a target that cannot be written, before any work is done."""
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            f"the file to write is {str(path)!r}; its name must end in .onnx, for example {path.stem}.onnx"
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give a file, for example {path / 'model.onnx'}")
    if path.exists() and not (path.is_file() and path.stat().st_size == 0):  # an empty file is nothing to keep
        try:
            with open_model_file(path) as file:
                locate_card(file)
        except CardError as error:
            raise UsageError(f"{path} is there already and is not an ONNX file. Give another name.") from error
    try:
        make_folder(path.parent)
        check_writable(path)
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError, needed: int | None = None) -> ExportError:
    reason, remedy = (error.strerror or str(error)).lower(), "Give another place with --out."
    if disk_is_full(error) and needed is not None:
        free = shutil.disk_usage(path.parent).free
        reason = f"the disk is full: {size(needed)} are needed and {size(free)} are free"
        remedy = "Make room, or give another place with --out."
    return ExportError(f"{path} cannot be written ({reason}). {remedy}")
