"""An exported file in another engine's form: made on first use, compared with ONNX Runtime's outputs, and cached.

The cache has it by the SHA-256 of the ONNX file and the engine's version. A form that was refused is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vertebra.cache import (
    cache_dir,
    creation_lock,
    fingerprint,
    read_json,
    read_sidecar,
    scratch_dir,
    warn_once,
    write_json,
    write_sidecar,
)
from vertebra.card import Card
from vertebra.files import atomic_write, require_space
from vertebra.pixels import Pixels
from vertebra.synthetic_photos import synthetic_photos

from .engine import OUTPUTS, PROBABILITIES, Engine, EngineError, FloatArray, Plan
from .onnxruntime_engine import OnnxRuntimeEngine


class InterruptedConversionError(EngineError):
    """The conversion was stopped from outside: another attempt may succeed."""


@dataclass(frozen=True)
class ConvertedForm:
    """The form that an engine reads.

    The tolerances are the largest difference from ONNX Runtime that counts as rounding: of a probability, and of any
    other output relative to its largest value.
    """

    engine: str
    version: str  # another one makes other files
    convert: Callable[[Path, Path], None]  # ONNX file, target; raises an EngineError
    open: Callable[[Path], Sequence[Engine]]  # a converted file with each setting that changes its outputs
    probability_tolerance: float
    relative_tolerance: float

    def path(self, model: Path) -> Path:
        """Where the cache has the form of an ONNX file."""
        return cache_dir() / self.engine / f"{fingerprint(model)}-{self.version}.{self.engine}"


def converted(model: Path, card: Card, form: ConvertedForm) -> Path:
    """Return the file that an engine reads instead of an ONNX file: from the cache, or converted and verified now.

    Raises:
        EngineError: it cannot be converted, or gives other outputs than ONNX Runtime.
    """
    path = form.path(model)
    if not _is_converted(path):
        with creation_lock(path):
            if not _is_converted(path):  # made while this process waited
                try:
                    _convert_and_verify(model, card, form, path)
                except OSError as error:
                    path = _convert_without_cache(model, card, form, path, error)
    return path


def load_converted(find: Callable[[], Path], load: Callable[[Path], None]) -> None:
    """Load the file that `find` returns from the cache or converts; one that is damaged is converted again first.

    Raises:
        EngineError: it cannot be converted, or an intact file cannot be loaded.
    """
    path = find()
    try:
        load(path)
    except EngineError:
        if read_sidecar(path, thorough=True) is not None:
            raise
        path.unlink(missing_ok=True)
        load(find())


def _is_converted(path: Path) -> bool:
    """Whether the converted file is cached and intact; an `EngineError` if it was refused before."""
    if (known := read_json(_refusal_path(path))) is not None:
        raise EngineError(str(known["refused"]))
    return read_sidecar(path) is not None


def _refusal_path(path: Path) -> Path:
    return path.with_suffix(".refused.json")


def _convert_and_verify(model: Path, card: Card, form: ConvertedForm, path: Path) -> None:
    """Convert, verify and cache; an `OSError` if it cannot be written."""
    try:
        with atomic_write(path) as temporary:
            require_space(path, model.stat().st_size)  # a converter may not say so
            form.convert(model, temporary)
            _verify(model, card, form, form.open(temporary))
    except InterruptedConversionError:
        raise
    except EngineError as error:
        write_json(_refusal_path(path), {"refused": str(error)})
        raise
    write_sidecar(path, {})


def _convert_without_cache(model: Path, card: Card, form: ConvertedForm, path: Path, reason: OSError) -> Path:
    """Convert for this process alone, when the cache cannot be written."""
    elsewhere = scratch_dir() / path.name
    if not elsewhere.is_file():
        why = f"{path.parent} cannot be written ({reason.strerror or reason})"
        warn_once(f"{why}, so the form of {model} for the engine {form.engine} is made for this run alone.")
        try:
            _convert_and_verify(model, card, form, elsewhere)
        except OSError as error:
            raise EngineError(
                f"the form of {model} for the engine {form.engine} cannot be written to {elsewhere} ({error.strerror})."
            ) from error
    return elsewhere


def _verify(model: Path, card: Card, form: ConvertedForm, engines: Sequence[Engine]) -> None:
    """Raise an `EngineError` if outputs differ from ONNX Runtime's by more than rounding."""
    images = synthetic_photos(4, card.preprocessing.crop_size)
    reference = OnnxRuntimeEngine(model, card, Plan())
    for batch in (images[:1], images[1:3], images):  # different images, so that swapped outputs show
        expected = reference.run(batch, OUTPUTS)
        for engine in engines:
            _require_same_outputs(model, form, expected, engine, batch)


def _require_same_outputs(
    model: Path, form: ConvertedForm, expected: Sequence[FloatArray], engine: Engine, batch: Pixels
) -> None:
    advice = "Use --engine onnxruntime."
    for output, right, found in zip(OUTPUTS, expected, engine.run(batch, OUTPUTS), strict=True):
        if found.shape != right.shape:
            raise EngineError(
                f"{form.engine} gives {output} of shape {found.shape} for {model}, and onnxruntime {right.shape}. "
                f"{advice}"
            )
        largest = float(np.abs(right).max())
        limit = form.probability_tolerance if output == PROBABILITIES else form.relative_tolerance * largest
        difference = float(np.abs(found - right).max())
        if not difference <= limit:  # NaN is no match either
            raise EngineError(
                f"{form.engine} and onnxruntime differ by {difference:.2g} in the {output} of {model}; at most "
                f"{limit:.2g} is taken for rounding. {advice}"
            )
