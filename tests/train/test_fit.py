"""The steps of training: whatever the parts, processes and moments, the same is learned and written."""

import signal
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch
from safetensors.torch import load_file
from tiny_trainer import trainer_of

from vertebra.errors import UsageError
from vertebra.signals import raise_on_termination
from vertebra.train import Settings, TrainError
from vertebra.train import run_checkpoint as checkpoint
from vertebra.train.distributed import Distributed
from vertebra.train.run_checkpoint import CHECKPOINT, TrainingState, best_file, read_state, save
from vertebra.train.run_folder import Stopped
from vertebra.train.schedule import Budget
from vertebra.train.step_metrics import StepMetrics
from vertebra.train.training_log import read_log
from vertebra.train.training_step import TrainingStep
from vertebra.train.validation import Split


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 2), (3, 4), (2, 3)])
def test_a_process_without_an_image_is_refused(batch_size, processes, photos):
    distributed = Distributed(0, processes, processes, torch.device("cpu"))
    with pytest.raises(UsageError, match=f"the smallest step has .*, and {processes} processes share a step: each of "):
        trainer_of(photos, None, distributed=distributed, batch_size=batch_size)


def arrive_late(monkeypatch, lag):
    """As from a device that is `lag` steps behind its host."""
    read = StepMetrics.read

    def late(self, *, wait):
        kept = [] if wait else [self._pending.pop() for _ in range(min(lag, len(self._pending)))]
        read(self, wait=wait)
        self._pending.extend(reversed(kept))

    monkeypatch.setattr(StepMetrics, "read", late)


class Told:
    """What a run does, and a clock that goes on by four seconds with each step."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.saved, self.steps, self.validated = [], 0, []

    def now(self):
        return 1000 + 4.0 * self.steps  # clocks begin anywhere

    def attach(self, trainer, monkeypatch):
        step, validate = trainer.step, trainer._validate

        def count(batch, number, *rest):
            self.steps += 1
            if number + 1 == self.stop_after:
                trainer._stop = True
            return step(batch, number, *rest)

        def note(position, *rest):
            validate(position, *rest)
            self.validated.append(position.step)

        def write(folder, position, *rest):
            self.saved.append((position.step, position.seconds, position.best_step, position.finished))
            save(folder, position, *rest)

        count.optimizer, count.wrap_ddp = step.optimizer, step.wrap_ddp
        trainer.step, trainer._validate = count, note
        monkeypatch.setattr("vertebra.train.fit.save", write)


def fitted(photos, folder, monkeypatch, lag, stop_after=None, **options):
    """What `fit` does, with a clock that goes by steps, and figures that arrive `lag` steps late."""
    arrive_late(monkeypatch, lag)
    told = Told(stop_after)
    trainer = trainer_of(photos, folder, now=told.now, **options)
    told.attach(trainer, monkeypatch)
    try:
        trainer.fit()
        end = "finished"
    except Stopped as stopped:
        end = str(stopped).replace(str(folder), "RUN")
    records = [{name: value for name, value in record.items() if value == value} for record in read_log(folder)]
    return (
        end,
        told.saved,
        told.steps,
        told.validated,
        records,
        {name: tensor.tolist() for name, tensor in load_file(folder / CHECKPOINT).items()},
        replace(read_state(folder), settings={}),
        {name: tensor.tolist() for name, tensor in trainer.network.state_dict().items()},
    )


RUNS = {
    "one step": {"epochs": 1, "count": 3},
    "an epoch of one step": {"epochs": 3, "count": 3},
    "two epochs": {"ema": 0.9},
    "patience": {"epochs": 6, "patience": 1, "lr": 1e-6},
    "saved after each step": {"checkpoint_seconds": 0, "normed": True, "accumulate": 2},
    "saved now and then": {"checkpoint_seconds": 9, "epochs": 3, "ema": 0.9, "normed": True},
    "never saved in between": {"checkpoint_seconds": 1e6, "mixup": 0.4},
    "by time": {"epochs": 50, "time_budget": "36s"},
}


@pytest.mark.parametrize("lags", [(0, 3), pytest.param((0, 1, 2, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RUNS)
def test_when_a_device_tells_of_its_steps_changes_nothing(name, lags, photos, tmp_path, monkeypatch):
    first = None
    for lag in lags:
        found = fitted(photos, tmp_path / f"lag{lag}", monkeypatch, lag, **RUNS[name])
        first = first or found
        assert found == first
    end, saved, steps, validated, records, _, position, _ = first
    assert end == "finished"
    assert position.finished
    assert saved[-1] == (position.step, 4.0 * steps, position.best_step, True)
    assert len({step for step, *_ in saved}) == len(saved)  # none is written twice
    assert steps == position.step == validated[-1]
    assert [record["step"] for record in records if "val_loss" in record] == validated


def test_an_epoch_of_one_step_is_one_step(photos, tmp_path, monkeypatch):
    _, saved, steps, validated, records, *_ = fitted(photos, tmp_path / "run", monkeypatch, 1, epochs=1, count=3)
    assert steps == 1
    assert validated == [1]
    assert [step for step, *_ in saved] == [1]
    assert len(records) == 1


def test_timed_checkpoints(photos, tmp_path, monkeypatch):
    """Steps take four seconds; an epoch of three ends with a checkpoint, from which the time is counted anew."""
    for lag, seconds in ((0, 7), (1, 7), (0, 8)):
        run = {"checkpoint_seconds": seconds, "epochs": 2, "count": 9}
        _, saved, *_ = fitted(photos, tmp_path / f"{lag} {seconds}", monkeypatch, lag, **run)
        assert [step for step, *_ in saved] == [2, 3, 5, 6]
        assert [at for _, at, *_ in saved] == [8, 12, 20, 24]


@pytest.mark.parametrize("lag", [0, 1])
def test_the_log_has_a_line_every_ten_seconds_and_every_epoch(lag, photos, tmp_path, monkeypatch):
    *_, records, _, _, _ = fitted(photos, tmp_path / "run", monkeypatch, lag, epochs=2, count=24)
    assert [record["step"] for record in records] == [3, 6, 8, 9, 12, 15, 16]
    assert [(record["step"], record["epoch"]) for record in records if "epoch" in record] == [(8, 1), (16, 2)]


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(stop_after, photos, tmp_path, monkeypatch):
    options = {"ema": 0.9, "normed": True, "dropout": 0.1, "momentum": 0.9}
    whole = fitted(photos, tmp_path / "whole", monkeypatch, 0, **options)
    for lag in (0, 1):
        folder = tmp_path / f"lag{lag}"
        end, saved, steps, *_ = fitted(photos, folder, monkeypatch, lag, stop_after, **options)
        assert steps == stop_after
        assert [step for step, *_ in saved] == [step for step in (3, 6) if step < stop_after] + [stop_after]
        if stop_after < 6:  # the last step ends it anyhow
            assert end == f"stopped after step {stop_after} of 6. Resume with: vertebra train --resume RUN"
            found = fitted(photos, folder, monkeypatch, lag, **options)
            assert found[2] == 6 - stop_after
            assert found[3] == [step for step in (3, 6) if step > stop_after]
        else:
            found = whole
            assert end == "finished"
        # The network, the checkpoint and the epochs in the log.
        assert found[-1] == whole[-1]
        assert found[5] == whole[5]
        assert replace(found[6], seconds=0) == replace(whole[6], seconds=0)
        scores = [
            [(record["step"], record["val_accuracy"], record["val_loss"]) for record in records if "val_loss" in record]
            for records in (read_log(folder), whole[4])
        ]
        assert scores[0] == scores[1]


@pytest.mark.parametrize("stop_after", [3, 4, 5, 6])
@pytest.mark.parametrize("ema", [0.0, 0.9], ids=["own", "averaged"])
def test_resumed_with_fewer_epochs_than_done_it_does_no_step(stop_after, ema, photos, tmp_path, monkeypatch):
    """Of the steps that were done, the last is judged as any epoch's is, and once."""
    folder = tmp_path / "run"
    end, *_ = fitted(photos, folder, monkeypatch, 0, stop_after=stop_after, epochs=4, ema=ema)
    assert end.startswith(f"stopped after step {stop_after} of 12.")
    judged = [record["step"] for record in read_log(folder) if "val_loss" in record]
    trainer = trainer_of(photos, folder, epochs=1, ema=ema)
    monkeypatch.setattr(TrainingStep, "__call__", None)
    position = trainer.fit()
    assert (position.step, position.finished) == (stop_after, True)
    assert read_state(folder).finished
    found = [record["step"] for record in read_log(folder) if "val_loss" in record]
    assert found == judged + [stop_after] * (stop_after % 3 > 0)


def test_the_best_epoch_is_kept(photos, tmp_path, monkeypatch):
    """By accuracy, and among equals by the loss."""
    given = iter([(0.5, 1.0), (0.75, 2.0), (0.75, 1.0), (0.75, 1.5), (0.5, 0.1)])
    monkeypatch.setattr("vertebra.train.fit.validation_score", lambda logits, labels: next(given))
    position = trainer_of(photos, tmp_path / "run", epochs=5, count=3).fit()
    assert (position.step, position.best_step, position.epochs_since_best) == (5, 3, 2)
    assert (position.best_score, position.best_loss) == (0.75, 1.0)
    assert [path.name for path in (tmp_path / "run").glob("best*")] == [best_file(tmp_path / "run", 3).name]


def test_the_progress_of_training_is_reported(photos, tmp_path):
    told = []
    trainer_of(photos, tmp_path / "run", progress=lambda *what: told.append(what)).fit()
    training = [(what.partition(",")[0], *rest) for what, *rest in told if what.startswith("training")]
    # The last step of an epoch is in the log.
    assert training == [
        ("training: epoch 1 of 2", 3, 18), ("training: epoch 1 of 2", 6, 18), ("training: epoch 2 of 2", 12, 18),
        ("training: epoch 2 of 2", 15, 18),
    ]  # fmt: skip
    assert ("validating", 0, 10) in told


def test_inside_a_polite_kill_is_a_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), raise_on_termination():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(number, photos, tmp_path):
    before = signal.getsignal(number)
    told = []
    trainer = trainer_of(photos, tmp_path / "run", progress=lambda *what: told.append(what))
    step, seen = trainer.step, []

    def signalled(batch, at, *rest):
        if at == 1:
            signal.raise_signal(number)
            # A second Ctrl-C ends it at once; of several processes torchrun sends each a second one itself.
            seen.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        return step(batch, at, *rest)

    signalled.optimizer, signalled.wrap_ddp = step.optimizer, step.wrap_ddp
    trainer.step = signalled
    with pytest.raises(Stopped, match="stopped after step 2 of 6") as caught:
        trainer.fit()
    assert caught.value.exit_code == 128 + number
    assert seen == [True]
    assert ("finishing the step; Ctrl-C again stops at once", 0, 1) in told
    assert signal.getsignal(number) is before
    assert read_state(tmp_path / "run").step == 2


@pytest.mark.parametrize("lag", [0, 1])
def test_a_diverging_loss_is_reported_with_its_step(lag, photos, tmp_path, monkeypatch):
    arrive_late(monkeypatch, lag)
    trainer = trainer_of(photos, tmp_path / "run", epochs=3)
    step = trainer.step

    def spoilt(batch, number, *rest):
        sums = step(batch, number, *rest)
        if number == 4:
            sums[0] = float("nan")
        return sums

    spoilt.optimizer, spoilt.wrap_ddp = step.optimizer, step.wrap_ddp
    trainer.step = spoilt
    with pytest.raises(
        TrainError, match=r"the loss is nan at step 5 with a learning rate of .* rolled back to step [03],"
    ):
        trainer.fit()
    position = read_state(tmp_path / "run")
    assert position.step == position.best_step
    best = load_file(best_file(tmp_path / "run", position.best_step))
    kept = load_file(tmp_path / "run" / CHECKPOINT)
    assert all(torch.equal(kept[f"network.{name}"], tensor) for name, tensor in best.items())
    assert not [name for name in kept if name.startswith("optimizer.")]


def test_a_photo_that_is_lost_while_validating_leaves_the_weights_of_training(photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", ema=0.9, lr=0.5)
    trainer.val = Split([*photos[30:33], tmp_path / "gone.png"], np.arange(4) % 3)
    seen = {}
    sync = trainer._sync_buffers

    def note():
        seen.update({name: tensor.clone() for name, tensor in trainer.network.state_dict().items()})
        sync()

    trainer._sync_buffers = note
    with pytest.raises(TrainError, match=r"gone\.png: no such file\. A run keeps .*: put the photo back.*--resume"):
        trainer.fit()
    assert seen
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, seen[name])
        assert not torch.equal(tensor, trainer.average.tensors[name])


@pytest.mark.parametrize("lag", [0, 1])
def test_a_photo_that_is_lost_in_training(lag, photos, tmp_path, monkeypatch):
    arrive_late(monkeypatch, lag)
    trainer = trainer_of(photos, tmp_path / "run")
    trainer.train = Split([*photos[:8], tmp_path / "gone.png"], trainer.train.labels)
    with pytest.raises(TrainError, match=r"gone\.png: no such file.*until step ([012]) is kept") as caught:
        trainer.fit()
    step = int(str(caught.value).split("until step ")[1][0])
    assert read_state(tmp_path / "run").step == step


@pytest.mark.parametrize(
    ("time_budget", "seconds", "step", "progress"),
    [(None, 99, 50, 0.5), (None, 99, 100, 1), (12, 5, 1, 0.5), (12, 1, 50, 0.5), (12, 10, 1, 1), (12, 1, 100, 1)],
)
def test_steps_or_a_time_budget_end_a_run(time_budget, seconds, step, progress):
    settings = Settings("x", method="scratch", time_budget=None if time_budget is None else f"{time_budget}s")
    budget = Budget(settings, 100, seconds, reserve=2.0)
    assert budget.progress(step) == progress
    assert budget.is_spent(step) == (progress == 1)


@pytest.mark.parametrize(
    ("device", "cores", "here", "workers"),
    [
        ("cpu", 16, 2, 2), ("cpu", 16, 1, 4), ("cpu", 3, 1, 1), ("cpu", 8, 8, 1),
        ("cuda", 16, 2, 7), ("cuda", 64, 1, 16), ("cuda", 1, 1, 1),
    ],
)  # fmt: skip
def test_processes_share_the_cores_of_their_machine(device, cores, here, workers, photos, monkeypatch):
    asked = {}
    monkeypatch.setattr("vertebra.train.fit.usable_cores", lambda: cores)
    monkeypatch.setattr("vertebra.train.fit.load_batches", lambda photos, **options: asked.update(options))
    trainer = trainer_of(photos, None, workers=None)
    trainer.distributed = Distributed(0, 1, here, torch.device(device))
    trainer.batches(0)
    assert (asked["workers"], asked["pin"]) == (workers, device == "cuda")


def test_progress_counts_photos(photos):
    told = []
    trainer = trainer_of(photos, None, count=30, progress=lambda *what: told.append(what))
    assert trainer.logits(trainer.train, "measuring").shape == (30, 3)
    assert told == [("measuring", 0, 30), ("measuring", 16, 30)]


def test_a_new_average_follows_faster(photos, tmp_path):
    trainer = trainer_of(photos, None, ema=0.9)
    trainer.average.tensors |= {name: torch.zeros_like(tensor) for name, tensor in trainer.network.state_dict().items()}
    expected = 0.0
    for step, decay in ((0, 1 / 10), (1, 2 / 11), (80, 0.9), (500, 0.9)):
        trainer.average.update(step)
        expected = decay * expected + (1 - decay)
        for name, tensor in trainer.network.state_dict().items():
            torch.testing.assert_close(trainer.average.tensors[name], expected * tensor)


@pytest.mark.parametrize(
    "options",
    [
        {"balance": "loss"}, {"balance": "sampler"}, {"mixup": 0.4}, {"cutmix": 1.0}, {"label_smoothing": 0.2},
        {"balance": "loss", "cutmix": 1.0, "mixup": 0.4, "label_smoothing": 0.1},
    ],
)  # fmt: skip
def test_a_class_without_a_photo_to_train_on(options, photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", classes=2, **options)
    assert trainer.fit().finished
    if trainer.step.loss.weight is not None:
        assert trainer.step.loss.weight.tolist() == pytest.approx([0.9, 1.125, 1])


def test_batch_norm_gets_two_images(photos, tmp_path):
    assert trainer_of(photos, tmp_path / "a", normed=True, batch_size=9, accumulate=9, epochs=1).fit().finished
    trainer = trainer_of(photos, tmp_path / "b", normed=True, batch_size=9, accumulate=9)
    assert trainer.step.min_images == 2
    assert trainer.notes == [
        "accumulate is 9, and some steps are computed in 4 parts: batch norm needs two images of 8 × 8 pixels in each."
    ]
    assert trainer_of(photos, tmp_path / "c", batch_size=1, epochs=1).fit().finished  # without batch norm one will do
    # With what is frozen there are no statistics of a batch.
    assert trainer_of(photos, tmp_path / "d", normed=True, freeze=2, batch_size=1, epochs=1).fit().finished


@pytest.mark.parametrize(
    ("options", "processes", "message"),
    [
        ({"batch_size": 1}, 1, r"smallest step has 1: batch norm needs two images of 8 × 8 pixels\. Take .* 3\."),
        ({"batch_size": 2}, 1, r"of 9 photos in steps of at most 2, the smallest step has 1: .* Take --batch-size 3\."),
        ({"batch_size": 3}, 2, r"smallest step has 3, and 2 processes share a step: batch .* Take --batch-size 5,"),
        ({"batch_size": 9, "count": 3}, 2, r"Add photos, or fewer processes\."),
    ],
)  # fmt: skip
def test_steps_of_too_few_images_are_refused(options, processes, message, photos):
    distributed = Distributed(0, processes, processes, torch.device("cpu"))
    with pytest.raises(UsageError, match=message):
        trainer_of(photos, None, normed=True, distributed=distributed, **options)


def test_a_checkpoint_names_what_it_cannot_use(photos, tmp_path):
    folder = tmp_path / "run"
    trainer_of(photos, folder)
    assert read_state(folder) == TrainingState()
    (folder / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(TrainError, match="cannot be used"):
        checkpoint.read_state(folder)
