"""One version of a model's file, loaded and warmed up."""

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

_WARM_UP_SIZES = (1, 2, 4)  # batch sizes; the first batch of each also allocates the engine's memory


class LoadedModel:
    """One version of a model's file, ready to predict.

    It holds hundreds of megabytes, so no part of it may refer to it: a reference cycle would keep them until the next
    garbage collection, which is rare in a server.
    """

    def __init__(self, name: str, path: Path, settings: ServerSettings, metrics: Metrics) -> None:
        self.name = name
        self.path = path
        self.file_state = change_state(path)
        verify(path)  # at each load, even if the cache has a result
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
        # Read now, because the file may be replaced later.
        self.classifier, self.anatomy = self._read_graph()
        # Each worker decodes and infers; a lane with several threads leaves some of its cores to decoding meanwhile.
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
            EngineError: the outputs are NaN or infinite, have another shape, or do not match the card.
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
        """Measure batches of several sizes; the second run of each counts."""
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
        """The method of heat-maps."""
        return "occlusion" if self.classifier is None else "activation"

    def _read_graph(self) -> tuple[Map | None, dict[str, Any] | None]:
        """The weight (K, D) for class activation maps, and the stages; None where the file does not provide them."""
        try:
            graph = read_onnx(self.path)
            classifier = find_classifier(graph)
            if change_state(self.path) != self.file_state:
                return None, None  # the file has been replaced; the newer one will be loaded
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
        """Finish the queued images, then free the network, even if a request still refers to this model."""
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
