"""Early stopping: which epoch is the best so far, and whether training should stop."""

from __future__ import annotations

from dataclasses import dataclass

from .metrics import Floats, Labels
from .run_checkpoint import TrainingState
from .temperature import cross_entropy, fit_temperature


def validation_score(logits: Floats, labels: Labels) -> tuple[float, float]:
    """Return the accuracy, and the cross-entropy at the best temperature."""
    loss = cross_entropy(logits / fit_temperature(logits, labels), labels)
    return float((logits.argmax(1) == labels).mean()), loss


@dataclass(frozen=True)
class EarlyStopping:
    """Compares epochs by validation accuracy, and those of equal accuracy by validation loss."""

    patience: int  # epochs without a better one before training stops; 0: never

    def update(self, state: TrainingState, accuracy: float, loss: float) -> bool:
        """Record an epoch's score in the state, and return whether it is the best so far."""
        state.epochs_since_best += 1
        is_best = (accuracy, -loss) > (state.best_score, -state.best_loss)
        if is_best:
            state.best_score, state.best_loss = accuracy, loss
            state.best_step, state.epochs_since_best = state.step, 0
        return is_best

    def should_stop(self, state: TrainingState) -> bool:
        """Return whether `patience` epochs in a row were not better than the best one."""
        return 0 < self.patience <= state.epochs_since_best
