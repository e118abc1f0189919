"""Verifies an engine against ONNX Runtime before it is used: the same outputs, up to rounding."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vertebra.card import Card
from vertebra.synthetic_photos import synthetic_photos

from .engine import OUTPUTS, PROBABILITIES, Engine, EngineError, FloatArray, Plan
from .onnxruntime_engine import OnnxRuntimeEngine

# Largest difference that counts as rounding: of a probability, and of any other output relative to its largest
# value. Other orders of summing, and Winograd's convolution, stay a hundred times below both.
PROBABILITY_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-2


def verify(path: Path, card: Card, engines: Iterable[Engine]) -> None:
    """Refuse an engine whose outputs differ from ONNX Runtime's by more than rounding does.

    Raises:
        EngineError: says which output differs, and by how much.
    """
    images = synthetic_photos(4, card.preprocessing.crop_size)
    oracle = OnnxRuntimeEngine(path, card, Plan())
    # Not the same image at every place of a batch, so that mixed-up ones show.
    batches = (images[:1], images[1:3], images)
    expected = [oracle.run(batch, OUTPUTS) for batch in batches]
    for engine in engines:
        for batch, right in zip(batches, expected, strict=True):
            for name, one, other in zip(OUTPUTS, right, engine.run(batch, OUTPUTS), strict=True):
                _check(path, engine.name, name, one, other)


def _check(path: Path, engine: str, output: str, right: FloatArray, found: FloatArray) -> None:
    advice = "Use --engine onnxruntime."
    if found.shape != right.shape:
        raise EngineError(
            f"{engine} gives {output} of shape {found.shape} for {path}, and onnxruntime {right.shape}. {advice}"
        )
    limit = PROBABILITY_TOLERANCE if output == PROBABILITIES else RELATIVE_TOLERANCE * float(np.abs(right).max())
    difference = float(np.abs(found - right).max())
    if not difference <= limit:  # NaN is no match either
        raise EngineError(
            f"{engine} and onnxruntime differ by {difference:.2g} in the {output} of {path}; at most {limit:.2g} is "
            f"taken for rounding. {advice}"
        )
