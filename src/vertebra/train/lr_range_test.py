"""Learning-rate range test (Smith 2017, https://arxiv.org/abs/1506.01186)."""

from __future__ import annotations

import math

from .fit import Trainer
from .run_folder import TrainError


def range_test(trainer: Trainer, *, steps: int = 60) -> tuple[float, list[tuple[float, float]]]:
    """Find a learning rate; return it with the loss at each rate that was tried.

    The rate rises exponentially until the loss is four times its minimum; a tenth of the rate at the minimum is chosen.
    The network's weights are restored.
    """
    low, high = (1e-6, 0.1) if trainer.settings.optimizer == "adamw" else (1e-5, 3.0)
    initial = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    tried: list[tuple[float, float]] = []
    smooth = 0.0
    for number, batch in enumerate(trainer.batches(0)):
        if isinstance(batch, str):
            raise TrainError(batch)
        lr = low * (high / low) ** (number / (steps - 1))
        loss_sum, _, count = trainer.step(batch, number, 0.0, lr).tolist()
        smooth = 0.8 * smooth + 0.2 * loss_sum / count
        loss = smooth / (1 - 0.8 ** (number + 1))
        trainer.progress("finding a learning rate", number + 1, steps)
        if math.isfinite(loss):
            tried.append((lr, loss))
        if number + 1 >= steps or not math.isfinite(loss) or loss > 4 * min(value for _, value in tried):
            break
    trainer.network.load_state_dict(initial)
    trainer.step.optimizer.state.clear()
    best = min(tried, key=lambda entry: entry[1])[0] if tried else low * 10
    return float(f"{best / 10:.2g}"), tried
