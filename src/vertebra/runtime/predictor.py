"""Photos → classes, from an exported file: what `vertebra.load`, `vertebra predict` and the server use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.cache import file_state
from vertebra.decoding_notes import DecodingNotes
from vertebra.errors import ImageError, UsageError, printable, require_positive_int
from vertebra.machine import require_threads, usable_cores
from vertebra.model_checksum import read_verified_card
from vertebra.pixels import Pixels, network_pixels
from vertebra.prefetch import read_ahead
from vertebra.preprocessing import BITS
from vertebra.progress import Progress, silent

from .engine import EMBEDDING, PROBABILITIES, FloatArray, Plan, check_engine
from .engine_runner import Runner
from .engine_selection import EngineSelector
from .inputs import ImageInput, ImageInputs, parse_input, parse_inputs
from .photo import NetworkPixels, Opened, Photo
from .prediction import Prediction as Prediction
from .prediction import build_predictions

_MOST_DECODED = 16  # photos that a thread decodes before it runs them: int8 takes 0.96 times as long as with 4


class Predictor:
    """A loaded network. It may be called from several threads, copied, pickled and forked.

    A copy has the path, the card and all settings except `progress`. It opens the file at its first prediction, and
    raises an EngineError if the file has changed.

    Args:
        path: a file that `vertebra export` wrote.
        engine: "onnxruntime", "mnn", "kernels", or "auto": the fastest for this file on this machine, as measured.
        batch: images per batch in `predict_many`.
        threads: None: as many as cores that this process may use; else at most eight for each of them.
        scaled: decode large JPEGs at a fraction of their size; see `pixels.network_pixels`.
        bits: used by 16-bit files that do not say it themselves; None: what the card says.
        fast_start: load sooner and predict more slowly, which pays off for a few images.
        progress: a `Progress`, called during steps that take seconds.

    Raises:
        UsageError: an argument is not allowed, or `bits` is not with this file.
        CardError: the file is missing, not ONNX, has no card that can be read, or is not as it was exported.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str = "auto",
        batch: int = 16,
        threads: int | None = None,
        scaled: bool = False,
        bits: int | None = None,
        fast_start: bool = False,
        progress: Progress = silent,
    ) -> None:
        require_positive_int("batch", batch)
        if threads is not None:
            require_threads(threads)
        check_engine(engine)
        if bits is not None and not BITS[0] <= require_positive_int("bits", bits) <= BITS[1]:
            raise UsageError(f"bits is {bits}; it must be from {BITS[0]} to {BITS[1]}.")
        self.path = Path(path).absolute()  # engines are opened later, and in copies: perhaps from another folder
        # Taken before reading, so that a file replaced in between is noticed when the engine is opened.
        self._state = file_state(self.path) if self.path.is_file() else {}
        self.card = read_verified_card(path)
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
        self.fast_start = fast_start
        self._prepare(progress)

    def _prepare(self, progress: Progress) -> None:
        """Create what a copy or another process does not inherit."""
        self.notes = DecodingNotes(self.preprocessing.decoding)  # of the photos that were decoded
        self.threads = self._threads or usable_cores()
        self._engines = EngineSelector(
            self.path,
            self.card,
            self._state,
            engine=self.engine,
            threads=self.threads,
            fast_start=self.fast_start,
            progress=progress,
        )

    def __repr__(self) -> str:
        """One line: the network, its input, its classes, its file."""
        size, names = self.card.preprocessing.crop_size, self.card.classes
        classes = "classes without names"
        if names is not None:
            few = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            classes = f"{len(names):,} {'class' if len(names) == 1 else 'classes'} ({few})"
        found = f"<Predictor {self.card.architecture}: {classes}, {size} × {size} pixels; {self.path}>"
        return printable(found)

    def __getstate__(self) -> dict[str, Any]:
        """Without engines, threads and counters."""
        return {name: self.__dict__[name] for name in self.__dict__ if name not in ("notes", "threads", "_engines")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._prepare(silent)

    @cached_property
    def classes(self) -> list[str]:
        """The class names in the order of the probabilities; numbers if they have no names."""
        if self.card.classes is not None:
            return list(self.card.classes)
        size = self.card.preprocessing.crop_size
        count = self.probabilities(np.zeros((1, size, size, 3), np.uint8)).shape[1]
        return [self.card.class_name(index) for index in range(count)]

    def predict(
        self, photo: ImageInput, *, top: int = 5, embed: bool = False, preprocessed: bool = False
    ) -> Prediction:
        """Classify one photo.

        Args:
            photo: one of
                a path or a web address;
                the bytes of an image file, or such a file, open in binary mode;
                a `Photo`: bytes with the photo's name, or why it could not be read;
                a PIL image of any mode: what its file gives, EXIF orientation included; one made in memory, of mode I,
                I;16 or F, is refused where its values do not tell what is white;
                NumPy uint8 (H, W, 3) in the order red, green, blue; also (H, W) and (H, W, 1) of grey, and (H, W, 4) of
                RGBA. OpenCV has blue first, which the values do not show: write image[..., ::-1];
                torch uint8 (3, H, W), also of 1 or 4 channels or (H, W), on any device.
                Pixels of any size are resized and cropped as those of a file are.
            top: number of classes, best first.
            embed: add the embedding: the input of the classifier layer.
            preprocessed: the photo is NumPy or torch float (3, S, S), S the network's input size, as the network's own
                transforms give it: resized, cropped and normalised. An exported file takes pixels of 8 bits and
                normalises itself, so the normalisation is undone; values that are no such pixel's are refused.

        Raises:
            UsageError: it is none of these, or several photos.
            ImageError: it cannot be read.
        """
        require_positive_int("top", top)
        given = parse_input(photo, self.preprocessing if preprocessed else None)
        opened = given.open()
        with self._engine_loading() as runner:
            pixels = self.preprocess(opened, given.path)
        outputs = runner().call(pixels[None], _output_names(embed))
        return self.postprocess([given.path], outputs, top)[0]

    __call__ = predict

    def predict_many(
        self,
        photos: ImageInputs,
        *,
        top: int = 5,
        embed: bool = False,
        preprocessed: bool = False,
        count: int | None = None,
    ) -> Iterator[Prediction]:
        """Classify any number of photos in the order given; one that cannot be read comes with its `error`.

        Only a few dozen are in memory at a time. What a generator gives is read before the next is asked for. Photos
        of a database or an archive are given as `Photo(name, content=bytes)`, or `Photo(name, error=text)` for one that
        could not be read, and each is a result.

        Args:
            photos: a list, a generator or another iterable of what `predict` takes. A text in it may also be a folder,
                which stands for all photos in it and below it, or a pattern such as "shots/**/*.jpg", in the order in
                which the command takes them; a Path may be a folder. Or one of these alone; or a batch: NumPy uint8
                (N, H, W, 3) or torch uint8 (N, 3, H, W), which a list may hold as well.
            top: as for `predict`.
            embed: as for `predict`.
            preprocessed: as for `predict`; a batch is float (N, 3, S, S).
            count: of the photos, where it is known: whether it is worth while to find the fastest engine first.

        Raises:
            UsageError: an item is none of these; raised at once for a list, and for a generator when the item comes.
        """
        require_positive_int("top", top)
        if count is not None and count != 0:
            require_positive_int("count", count)
        inputs, found = parse_inputs(photos, self.preprocessing if preprocessed else None)
        count = found if count is None else count
        # Preprocessed before the next image is requested, which may overwrite this one.
        todo = (self._preprocessed(photo) if photo.may_change else photo for photo in inputs)
        outputs = _output_names(embed)
        if self.fast_start or (count is not None and count <= 1):
            return (self._predict_one(photo, top, outputs) for photo in todo)
        # A stream of unknown length may be short or slow, so it is not measured for; `tune` does that.
        runner = self._runner(self.batch, count, may_measure=count is not None, decoding=True)
        batch, workers = runner.plan.micro_batch, runner.plan.lanes * runner.plan.threads

        def work(part: Sequence[Photo]) -> list[Prediction]:
            ready = [self._preprocessed(photo) for photo in part]
            batches = (ready[start : start + batch] for start in range(0, len(ready), batch))
            return [result for one in batches for result in self._predict(one, lambda: runner, top, outputs)]

        return read_ahead(
            todo,
            lambda part: [photo.opened() for photo in part],
            work,
            workers=workers,
            chunk=lambda taken: chunk_size(batch, workers, taken, count),
            is_slow=lambda part: any(photo.is_remote() for photo in part),
        )

    def preprocess(self, image: Opened, name: str = "image") -> Pixels:
        """A photo → uint8 (S, S, 3); ambiguities of decoding go to `notes`, errors call it `name`."""
        if isinstance(image, NetworkPixels):
            return image.pixels
        return network_pixels(image, self.preprocessing, scaled=self.scaled, name=name, notes=self.notes)

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> list[FloatArray]:
        """uint8 (N, crop, crop, 3) → the named outputs, each (N, …); a `UsageError` for other shapes and types."""
        size = self.card.preprocessing.crop_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3) or not len(pixels):
            raise UsageError(
                f"the pixels are {pixels.dtype} {pixels.shape}; {self.path.name} takes uint8 (N, {size}, {size}, 3). "
                "Make them with vertebra.pixels.network_pixels."
            )
        return self._runner(len(pixels)).run(pixels, outputs)

    def postprocess(self, paths: Sequence[str], outputs: Sequence[FloatArray], top: int) -> list[Prediction]:
        """Probabilities (N, K), and embeddings (N, D) where there are any → the result of each photo.

        Raises:
            EngineError: the probabilities are NaN or infinite.
        """
        return build_predictions(self.path, self.card, paths, outputs, top)

    def probabilities(self, pixels: Pixels) -> FloatArray:
        """uint8 (N, crop, crop, 3), as `pixels.network_pixels` gives them → (N, K)."""
        return self.run(pixels, (PROBABILITIES,))[0]

    def embeddings(self, pixels: Pixels) -> FloatArray:
        """uint8 (N, crop, crop, 3) → (N, D), the input of the classifier layer."""
        return self.run(pixels, (EMBEDDING,))[0]

    def tune(self, batch: int = 1) -> Plan:
        """Measure the fastest engine for batches of that size, unless it is known; takes seconds."""
        return self._runner(batch, None, may_measure=True, wait=True).plan

    def runner(self, batch: int, *, tune: bool = False) -> Runner:
        """Return the engine for callers whose threads decode as well; `tune` measures the fastest first."""
        return self._runner(batch, may_measure=tune, wait=True, decoding=True)

    def _runner(self, batch: int, count: int | None = None, **how: bool) -> Runner:
        """Return the engine for batches of that size and `count` images in total, loaded on first use."""
        # Only two batch sizes are told apart: one image, and many.
        return self._engines.get(1 if batch <= 1 else max(2, self.batch), count, **how)

    def _predict(
        self, photos: Sequence[Photo], runner: Callable[[], Runner], top: int, outputs: Sequence[str]
    ) -> list[Prediction]:
        """Predict preprocessed photos in one call, in order; one that cannot be read gets an `error`."""
        found = [(photo.path, photo.content.pixels) for photo in photos if isinstance(photo.content, NetworkPixels)]
        results: Iterator[Prediction] = iter(())
        if found:
            paths, pixels = zip(*found, strict=True)
            results = iter(self.postprocess(paths, runner().call(np.stack(pixels), outputs), top))
        return [
            Prediction(photo.path, error=photo.error) if photo.error is not None else next(results) for photo in photos
        ]

    def _preprocessed(self, photo: Photo) -> Photo:
        """Return the preprocessed photo, or the photo with its error."""
        try:
            return Photo(photo.path, content=NetworkPixels(self.preprocess(photo.open(), photo.path)))
        except ImageError as error:
            return Photo(photo.path, error=str(error))

    def _predict_one(self, photo: Photo, top: int, outputs: Sequence[str]) -> Prediction:
        opened = photo.opened()
        if opened.error is not None:
            return Prediction(opened.path, error=opened.error)
        with self._engine_loading() as runner:
            return self._predict([self._preprocessed(opened)], runner, top, outputs)[0]

    @contextmanager
    def _engine_loading(self) -> Iterator[Callable[[], Runner]]:
        """Load the engine on first use, in parallel with the body of the `with`: both release the GIL."""
        if self._engines:
            yield lambda: self._runner(1)
            return
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self._runner, 1).result


def _output_names(embed: bool) -> tuple[str, ...]:
    return (PROBABILITIES, EMBEDDING) if embed else (PROBABILITIES,)


def chunk_size(batch: int, workers: int, taken: int, count: int | None) -> int:
    """Return how many photos one of `workers` threads decodes before it runs them, `batch` at a time.

    Decoding and the network push each other out of the caches, so up to `_MOST_DECODED`; fewer at the start, where the
    first result is waited for, and at the end, so that all threads end at the same time. `taken` of `count` photos have
    been taken; None: they may come slowly.
    """
    if count is None:
        return batch
    share = min(taken, (count - taken) // 2) // workers
    return batch * max(1, min(share, _MOST_DECODED) // batch)
