"""`speed=auto`: choose by measuring how training steps are computed. A run records the choice and keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vertebra.cpu_kernels import KernelError, measured_gain

from .fit import Trainer
from .train_settings import Settings

# Below these, compiling and measuring would take longer than they save.
_MIN_PIXELS = 1000 * 224**2  # of all images in all epochs: a minute of a small network on two cores
_MIN_GPU_SECONDS = 1800.0  # of all steps
_MIN_GAIN = 1.05
_WARM_UP, _STEPS = 3, 10


def choose_speed(
    settings: Settings, photos: int, device: torch.device, trainer: Callable[[str], Trainer]
) -> tuple[str, list[str]]:
    """Return the value of `speed` for a run, and notes.

    On a processor the kernels of this package are compiled and measured, once for each machine. On a GPU torch's
    compiler is tried in long runs.

    Args:
        settings: with the image size.
        photos: for training.
        device: that trains.
        trainer: builds one for a value of `speed`.
    """
    if settings.speed != "auto":
        return settings.speed, []
    if settings.epochs * photos * (settings.image_size or 224) ** 2 < _MIN_PIXELS:
        return "eager", []
    if device.type == "cuda":
        return "eager" if settings.freeze else _choose_on_gpu(trainer), []
    if settings.dtype != "float32":
        return "eager", []
    try:
        return "fused" if measured_gain() >= _MIN_GAIN else "eager", []
    except KernelError as error:
        return "eager", [
            f"Training steps were computed by torch's layers: {error}. With kernels that GCC compiles at the start of "
            "a run, they take a sixth to two thirds less time."
        ]


def _choose_on_gpu(trainer: Callable[[str], Trainer]) -> str:
    eager = trainer("eager")
    before = _step_seconds(eager)
    if before * eager.total_steps < _MIN_GPU_SECONDS:
        return "eager"
    start = time.perf_counter()
    after = _step_seconds(trainer("compile"))
    spent = time.perf_counter() - start
    pays = (before - after) * eager.total_steps > spent and before / after >= _MIN_GAIN
    return "compile" if pays else "eager"


def _step_seconds(trainer: Trainer) -> float:
    """Return the seconds of a step, data loading left out; the network's weights are restored."""
    size, images = trainer.preprocessing.crop_size, min(trainer.settings.batch_size, len(trainer.train.labels))
    images = max(1, images // trainer.distributed.local_size)
    batch = torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
    initial = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    for step in range(_WARM_UP + _STEPS):
        if step == _WARM_UP:
            torch.cuda.synchronize()
            start = time.perf_counter()
        trainer.step(batch, 0, 0.0, 1e-6)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / _STEPS
    trainer.network.load_state_dict(initial)
    trainer.step.optimizer.state.clear()
    return seconds
