"""Models that are being served: loaded, warmed up, and replaced when their files are."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vertebra.cache import change_state
from vertebra.card import Card
from vertebra.decoding_notes import DecodingNotes
from vertebra.graph.onnx_reader import read_onnx
from vertebra.model_checksum import verify
from vertebra.pixels import Pixels
from vertebra.runtime.engine import OUTPUTS, PROBABILITIES, EngineError, FloatArray
from vertebra.runtime.engine_runner import Runner
from vertebra.runtime.predictor import Predictor
from vertebra.synthetic_photos import synthetic_photos
from vertebra.units import counted

from .batch_costs import BatchCosts
from .batcher import Batcher
from .image_decoding import network_input
from .network_stages import network_stages
from .prometheus_metrics import Metrics
from .saliency import Map, find_classifier, is_mean_pooled
from .server_settings import ServerSettings

log = logging.getLogger("vertebra.serve")

_WARM_UP_SIZES = (1, 2, 4)  # images of a batch; the first of each size also makes the engine reserve its memory


class LoadedModel:
    """One version of a model's file, ready to predict; used until a newer one takes its place.

    It holds hundreds of megabytes, so no part of it may refer back to it: the last reference that goes frees
    all at once, where a reference cycle would wait for the garbage collector, which comes rarely to a server.
    """

    def __init__(self, name: str, path: Path, settings: ServerSettings, metrics: Metrics) -> None:
        self.name = name
        self.path = path
        self.file_state = change_state(path)
        verify(path)  # at each load, whatever the cache says: it serves for long
        predictor = Predictor(path, engine=settings.engine)
        self.card: Card = predictor.card
        runner = predictor.runner(predictor.batch, tune=settings.tune)
        self.runner = runner
        self.plan = runner.plan
        self._trial = synthetic_photos(max(_WARM_UP_SIZES), self.card.preprocessing.crop_size)
        self.classes = self._check_outputs()
        self.decode = partial(
            network_input,
            preprocessing=self.card.preprocessing,
            max_pixels=settings.max_pixels,
            notes=DecodingNotes(self.card.preprocessing.decoding, served=True),
        )
        costs = self._warm_up()
        # Read at once: later a damaged file may be in the place of this one.
        self.classifier, self.anatomy = self._read_graph()
        # A thread decodes and runs the network; a lane of several threads leaves the others of its cores to decoding.
        self.batcher = Batcher(
            partial(infer, runner, name),
            num_workers=runner.plan.lanes * runner.plan.threads,
            max_images=settings.queue,
            costs=costs,
            on_batch=metrics.batch_observer(name),
            name=name,
        )
        self.loaded_at = datetime.now(UTC).isoformat(timespec="seconds")

    def _check_outputs(self) -> int:
        """The number of classes.

        Raises:
            EngineError: the file does not predict, or gives NaN or infinite values, or does not fit its card.
        """
        (probabilities,) = infer(self.runner, self.name, self._trial[:1], (PROBABILITIES,))
        if probabilities.ndim != 2:
            raise EngineError(f"{self.path} gives probabilities of shape {probabilities.shape}; it must be (N, K).")
        if self.card.classes is not None and len(self.card.classes) != probabilities.shape[1]:
            raise EngineError(
                f"{self.path} gives {probabilities.shape[1]} probabilities, and its card names "
                f"{counted(len(self.card.classes), 'class')}. Export the network again."
            )
        return int(probabilities.shape[1])

    def _warm_up(self) -> BatchCosts:
        """What batches cost: the second run of each size counts."""
        costs = BatchCosts(self.plan.micro_batch)
        for size in _WARM_UP_SIZES:
            for repeat in range(2):
                start = time.perf_counter()
                infer(self.runner, self.name, self._trial[:size], (PROBABILITIES,))
                seconds = time.perf_counter() - start
                if repeat:
                    costs.record_warm_up(size, seconds)
        return costs

    @property
    def explains_by(self) -> Literal["activation", "occlusion"]:
        """How `explain` makes heat-maps."""
        return "occlusion" if self.classifier is None else "activation"

    def _read_graph(self) -> tuple[Map | None, dict[str, Any] | None]:
        """The weight (K, D) for class activation maps, and the stages; None where the file does not provide them."""
        try:
            graph = read_onnx(self.path)
            classifier = find_classifier(graph)
            if change_state(self.path) != self.file_state:
                return None, None  # a newer file is there already, and will be loaded
            if classifier is not None:
                _, embedding, features = self.runner.call(self._trial[1:2], OUTPUTS)
                if not is_mean_pooled(classifier, features[0], embedding[0]):
                    classifier = None
            return classifier, network_stages(graph, self.card.preprocessing.crop_size)
        except Exception:
            # Predictions do not need it.
            log.exception("cannot read the graph of %s", self.path)
            return None, None

    def close(self) -> None:
        """Finish what is queued, then free the network: a request that still names this model must not keep it."""
        self.batcher.close()
        self.runner.close()


def infer(runner: Runner, name: str, pixels: Pixels, outputs: Sequence[str]) -> list[FloatArray]:
    """The named outputs of the network.

    Raises:
        EngineError: NaN or infinite values, which JSON cannot hold.
    """
    values = runner.call(pixels, outputs)
    for value in values:
        if not np.isfinite(value).all():
            raise EngineError(f"the model {name!r} gives NaN or infinite values: its weights are damaged.")
    return values
