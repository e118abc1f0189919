"""The best epoch is kept, and training stops after `patience` epochs without a better one."""

import math

import pytest

pytest.importorskip("torch")

from vertebra.train.early_stopping import EarlyStopping
from vertebra.train.run_checkpoint import TrainingState


def updated(patience, *scores):
    """For each epoch whether it is the best so far and whether training stops after it; the last state."""
    stopping, state = EarlyStopping(patience), TrainingState()
    decisions = []
    for state.step, score in enumerate(scores, start=1):
        decisions.append((stopping.update(state, *score), stopping.should_stop(state)))
    return [best for best, _ in decisions], [stop for _, stop in decisions], state


def test_epochs_are_compared_by_accuracy_and_then_by_loss():
    best, _, state = updated(0, (0.5, 1.0), (0.75, 2.0), (0.75, 1.0), (0.75, 1.0), (0.75, 1.5), (0.5, 0.1))
    assert best == [True, True, True, False, False, False]
    assert (state.best_step, state.best_score, state.best_loss, state.epochs_since_best) == (3, 0.75, 1.0, 3)


def test_the_first_epoch_is_the_best_whatever_its_score():
    assert updated(0, (0.0, 1e30))[0] == [True]


def test_an_epoch_whose_loss_is_nan_does_not_replace_one_of_equal_accuracy():
    assert updated(0, (0.5, 1.0), (0.5, math.nan))[0] == [True, False]


@pytest.mark.parametrize(
    ("patience", "stops"),
    [(0, [False] * 4), (1, [False, True, True, True]), (2, [False, False, True, True]), (4, [False] * 4)],
)
def test_training_stops_after_patience_epochs_without_a_better_one(patience, stops):
    assert updated(patience, *[(0.5, 1.0)] * 4)[1] == stops
