"""Photos → classes, from an exported file: what `vertebra.load`, `vertebra predict` and the server use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.cache import file_state
from vertebra.card import BITS, Card
from vertebra.decoding_notes import DecodingNotes
from vertebra.errors import ImageError, UsageError
from vertebra.machine import usable_cores
from vertebra.model_checksum import checked_card
from vertebra.pixels import Pixels, Source, decode, fit, least_side

from .engines import EMBEDDING, PROBABILITIES, EngineError, FloatArray, Plan, Runner, check_engine
from .pipeline import read_ahead
from .runners import Runners
from .sources import Photo

BATCH = 16


def silent(what: str) -> None:
    """Nobody is told."""


@dataclass
class Prediction:
    """What one photo gave: classes, best first, or the reason why there are none."""

    path: str
    predictions: list[dict[str, Any]] = field(default_factory=list)  # class, index, probability
    error: str | None = None
    unsure: bool | None = None  # the best probability is below the card's threshold; None: the card has none
    embedding: FloatArray | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: path, predictions and error; unsure and embedding only where there are any."""
        found: dict[str, Any] = {"path": self.path, "predictions": self.predictions, "error": self.error}
        if self.unsure is not None:
            found["unsure"] = self.unsure
        if self.embedding is not None:
            found["embedding"] = self.embedding.tolist()
        return found


def best_classes(card: Card, probabilities: FloatArray, top: int) -> tuple[list[dict[str, Any]], bool | None]:
    """(K,) → the `top` best classes, best first, and whether even the best is below the card's threshold."""
    best = np.argsort(-probabilities, kind="stable")[:top]
    found = [
        {"class": card.class_name(index), "index": index, "probability": value}
        for index, value in zip(best.tolist(), probabilities[best].tolist(), strict=True)
    ]
    return found, None if card.threshold is None else bool(probabilities.max() < card.threshold)


class Predictor:
    """A network made ready to predict; it may be called from several threads, copied, pickled and forked.

    A copy has the path, the card and the settings but for `tell`, and opens the file when it is first asked for a
    prediction: an EngineError there if the file is no longer what it was.

    Args:
        path: a file that `vertebra export` wrote.
        engine: "onnxruntime", "mnn", or "auto": whatever was measured fastest for this file here.
        batch: images that go through the network at once where many are asked for.
        threads: None: as many as this process may run at once.
        scaled: decode large JPEGs at a fraction of their size; see `image.network_pixels`.
        bits: that the photos' 16-bit files use which do not say it; None: what the card says.
        brief: a few images are all there will be; be ready sooner at the price of their speed.
        tell: called with what is being done where that takes seconds.

    Raises:
        UsageError: an argument is not allowed, or `bits` is not with this file.
        CardError: the file is missing, not ONNX, has no card that can be read, or is not as it was exported.
        MissingExtraError: the engine is not installed.
        EngineError: the engine cannot run the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        batch: int = BATCH,
        threads: int | None = None,
        scaled: bool = False,
        bits: int | None = None,
        brief: bool = False,
        tell: Callable[[str], None] = silent,
    ) -> None:
        for name, value in (("batch", batch), ("threads", threads)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1.")
        check_engine(engine)
        if bits is not None and not BITS[0] <= bits <= BITS[1]:
            raise UsageError(f"bits is {bits}; it must be from {BITS[0]} to {BITS[1]}.")
        self.path = Path(path).absolute()  # engines are opened later, and in copies: perhaps from another folder
        # Before it is read: a file that takes its place meanwhile is noticed when the engine is opened.
        self._state = file_state(self.path) if self.path.is_file() else {}
        self.card = checked_card(path)
        self.preprocessing = self.card.preprocessing
        if bits is not None:
            if self.preprocessing.decoding.rule == 1 and bits != BITS[1]:
                raise UsageError(
                    f"bits is {bits}, but {path} was exported by an older Vertebra: its white is 65,535 in all 16-bit "
                    "files. Leave bits out, or export it anew."
                )
            decoding = replace(self.preprocessing.decoding, bits=bits)
            self.preprocessing = replace(self.preprocessing, decoding=decoding)
        self.engine = engine
        self.batch = batch
        self._threads = threads
        self.scaled = scaled
        self.brief = brief
        self._prepare(tell)

    def _prepare(self, tell: Callable[[str], None]) -> None:
        """What a copy in another process has anew."""
        self.notes = DecodingNotes(self.preprocessing.decoding)  # of the photos that were decoded
        self.threads = self._threads or usable_cores()
        self._runners = Runners(
            self.path,
            self.card,
            self._state,
            engine=self.engine,
            threads=self.threads,
            brief=self.brief,
            tell=tell,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without engines, threads and counters."""
        new = ("notes", "threads", "_runners")
        return {name: value for name, value in self.__dict__.items() if name not in new}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._prepare(silent)

    def predict(self, photo: Source, *, top: int = 5, embed: bool = False) -> Prediction:
        """Classify one photo: a path, a web address, the bytes of a file, or an open file.

        Raises:
            ImageError: it cannot be read.
        """
        name = os.fspath(photo) if isinstance(photo, str | os.PathLike) else "image"
        source = Photo(name).open() if isinstance(photo, str) else photo
        with self._loading(1) as runner:
            pixels = self._pixels(source, name)
        (result,) = self._classify(runner(), [Prediction(name)], [pixels], top, embed)
        return result

    def predict_many(
        self,
        photos: Iterable[str | os.PathLike[str] | Photo],
        *,
        top: int = 5,
        embed: bool = False,
        count: int | None = None,
    ) -> Iterator[Prediction]:
        """Classify any number of photos in the order given; one that cannot be read comes with its `error`.

        Only a few dozen are in memory at a time. `count`, where it is known, tells whether it is worth while to find
        the fastest engine first.
        """
        if count is None and isinstance(photos, Sized):
            count = len(photos)
        todo = (photo if isinstance(photo, Photo) else Photo(os.fspath(photo)) for photo in photos)
        if self.brief or (count is not None and count <= 1):
            return (self._predict_alone(photo, top, embed) for photo in todo)
        # A list without an end that is known may be short, or wait for its writer: `tune` is for whoever knows better.
        runner = self._runner(self.batch, count, may_measure=count is not None, decoding=True)
        return read_ahead(
            todo,
            _opened,
            lambda opened: self._decode_and_classify(runner, opened, top, embed),
            workers=runner.plan.lanes * runner.plan.threads,
            chunk=runner.plan.micro_batch,
        )

    def probabilities(self, pixels: Pixels) -> FloatArray:
        """uint8 (N, crop, crop, 3), as `image.network_pixels` gives them → (N, K)."""
        return self.run(pixels, (PROBABILITIES,))[0]

    def embeddings(self, pixels: Pixels) -> FloatArray:
        """uint8 (N, crop, crop, 3) → (N, D), what the classifier sees."""
        return self.run(pixels, (EMBEDDING,))[0]

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> list[FloatArray]:
        """uint8 (N, crop, crop, 3) → the named outputs, each (N, …).

        Raises:
            UsageError: the pixels have another shape or type.
        """
        size = self.card.preprocessing.crop_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3) or not len(pixels):
            raise UsageError(
                f"the pixels are {pixels.dtype} {pixels.shape}; {self.path.name} takes uint8 (N, {size}, {size}, 3). "
                "Make them with vertebra.pixels.network_pixels."
            )
        return self._runner(len(pixels)).run(pixels, outputs)

    def tune(self, batch: int = 1) -> Plan:
        """Find the fastest engine for batches of that size now, where that has not been done on this machine yet.

        Takes seconds. `predict`, `probabilities` and `embeddings` never measure by themselves; `predict_many` does
        where there are many photos.
        """
        return self._runner(batch, None, may_measure=True, wait=True).plan

    def runner(self, batch: int, *, tune: bool = False) -> Runner:
        """The engine for those who call its lanes from threads of their own, which decode as well.

        `tune` finds the fastest first, as the method of that name does.
        """
        return self._runner(batch, may_measure=tune, wait=True, decoding=True)

    def _runner(self, batch: int, count: int | None = None, **how: bool) -> Runner:
        """The engine for batches of that size and `count` images in all, loaded on first use."""
        # Two kinds are told apart: one image, and many.
        return self._runners.get(1 if batch <= 1 else max(2, self.batch), count, **how)

    def _predict_alone(self, photo: Photo, top: int, embed: bool) -> Prediction:
        if photo.error is not None:
            return Prediction(photo.path, error=photo.error)
        try:
            result = self.predict(photo.open(), top=top, embed=embed)
        except ImageError as error:
            return Prediction(photo.path, error=str(error))
        return replace(result, path=photo.path)

    @contextmanager
    def _loading(self, batch: int) -> Iterator[Callable[[], Runner]]:
        """Loads the engine, the first time, while the body of the `with` decodes: both leave Python meanwhile."""
        if self._runners:
            yield lambda: self._runner(batch)
            return
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self._runner, batch).result

    def _pixels(self, source: Source, name: str) -> Pixels:
        """As `network_pixels`, with a note of what was open to question."""
        least = least_side(self.preprocessing) if self.scaled else None
        found = decode(source, at_least=least, decoding=self.preprocessing.decoding)
        self.notes.add(name, found.levels, found.remarks)
        return fit(found.picture, self.preprocessing)

    def _decode_and_classify(
        self, runner: Runner, opened: Sequence[tuple[Prediction, Source | None]], top: int, embed: bool
    ) -> list[Prediction]:
        ready, pixels = [], []
        for result, source in opened:
            if source is None:
                continue
            try:
                pixels.append(self._pixels(source, result.path))
            except ImageError as error:
                result.error = str(error)
            else:
                ready.append(result)
        if ready:
            self._classify(runner, ready, pixels, top, embed)
        return [result for result, _ in opened]

    def _classify(
        self, runner: Runner, results: list[Prediction], pixels: list[Pixels], top: int, embed: bool
    ) -> list[Prediction]:
        """Fill in what the network says of each picture."""
        outputs = (PROBABILITIES, EMBEDDING) if embed else (PROBABILITIES,)
        probabilities, *rest = runner.call(np.stack(pixels), outputs)
        if not np.isfinite(probabilities).all():
            raise EngineError(f"{self.path} gives probabilities that are no numbers: its weights are damaged.")
        for row, result in enumerate(results):
            result.predictions, result.unsure = best_classes(self.card, probabilities[row], top)
            if embed:
                result.embedding = rest[0][row].copy()
        return results


def _opened(photos: Sequence[Photo]) -> list[tuple[Prediction, Source | None]]:
    """What each photo is read from, downloaded where it must be; None and the reason in `error` where it cannot be."""
    found: list[tuple[Prediction, Source | None]] = []
    for photo in photos:
        result, source = Prediction(photo.path, error=photo.error), None
        if result.error is None:
            try:
                source = photo.open()
            except ImageError as error:
                result.error = str(error)
        found.append((result, source))
    return found
