"""Fit a network: training steps from a checkpoint to the last step or an early stop."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra.card import Preprocessing
from vertebra.errors import ImageError
from vertebra.machine import usable_cores
from vertebra.malloc import retain_freed_memory
from vertebra.models import ConvNet
from vertebra.progress import Progress
from vertebra.signals import TERMINATION_SIGNALS, signal_handler

from .batch_limits import check_photos
from .batch_loader import Batch, TrainPhotos, load_batches, steps_of_epoch
from .distributed import Distributed, is_lost_process, lost_process
from .early_stopping import EarlyStopping, validation_score
from .frozen_stages import FrozenStages
from .metrics import Floats
from .optimizer import disable_inplace, freeze
from .run_checkpoint import TrainingState, load, load_best, save, save_best
from .run_folder import Stopped, TrainError, resume_command
from .schedule import Budget, learning_rate_factor
from .step_metrics import StepMetrics
from .train_settings import Settings
from .training_log import Log
from .training_step import TrainingStep
from .validation import Inference, NetworkInference, Split, predict_logits
from .weight_average import WeightAverage

_LOG_SECONDS = 10.0
_DIVERGED = 100  # times the loss of guessing: above, the run has diverged


@dataclass
class Trainer:
    """Trains a network: `fit` resumes from the checkpoint, and leaves the best weights in the network."""

    settings: Settings
    network: ConvNet
    preprocessing: Preprocessing
    train: Split
    val: Split
    folder: Path
    distributed: Distributed
    progress: Progress
    now: Callable[[], float] = time.perf_counter  # seconds
    test: Split | None = None  # measured after `fit`; None: the run has no test photos
    _stop: bool = field(default=False, init=False)
    _signal: int = field(default=signal.SIGINT, init=False)  # the signal that requested the stop

    def __post_init__(self) -> None:
        self.epoch_steps = steps_of_epoch(len(self.train.labels), self.settings)
        self.total_steps = self.settings.epochs * self.epoch_steps
        size = self.preprocessing.crop_size
        least, self.notes = check_photos(
            self.settings, self.network, size, len(self.train.labels), self.distributed.size
        )
        self.network.to(self.distributed.device)
        self.network.to(memory_format=torch.channels_last)
        disable_inplace(self.network)
        freeze(self.network, self.settings.freeze)
        self.frozen = FrozenStages.of_run(
            self.settings, self.network, self.preprocessing, self.distributed, self.train, self.val
        )
        self.step = TrainingStep(
            self.settings, self.network, self.preprocessing, self.train.labels, least, self.distributed,
            None if self.frozen is None else self.frozen.trained,
        )  # fmt: skip
        self.average = WeightAverage(self.network, self.settings.ema)
        self.early_stopping = EarlyStopping(self.settings.patience)
        self._saved_at = self._logged_at = self._started_at = 0.0

    def fit(self) -> TrainingState:
        """Train until the last step or an early stop.

        Raises:
            Stopped: on Ctrl-C, after the step has been finished and saved.
            TrainError: the loss is NaN or infinite, a photo is missing, or the disk is full; says what is kept.
        """
        averaged = self.average.tensors if self.average else None
        state = load(self.folder, self.network, self.step.optimizer, averaged)
        if not state.finished:
            self.step.wrap_ddp()
            log = Log(self.folder, state.step) if self.distributed.is_first else None
            with self._signals(), retain_freed_memory(), log or nullcontext():
                try:
                    self._train(state, log)
                except RuntimeError as error:
                    if not is_lost_process(error):
                        raise
                    raise lost_process(error) from error
        self.distributed.barrier()  # rank 0 has written the weights that all ranks load
        self.network.load_state_dict(load_best(self.folder, state.best_step))
        return state

    def _train(self, state: TrainingState, log: Log | None) -> None:
        # Reserve: the export takes about 12 s on two cores, and two validations about 30 ms for each photo.
        budget = Budget(self.settings, self.total_steps, state.seconds, 12 + 0.06 * len(self.val.labels))
        metrics = StepMetrics(self.now, _DIVERGED * math.log(max(2, self.network.num_classes)))
        metrics.start_epoch(state.epoch_sums)
        self._saved_at = self._logged_at = self.now()
        self._started_at = self._saved_at - state.seconds
        if state.step and budget.is_spent(state.step):  # resumed with fewer epochs, or less time, than it has had
            if state.step % self.epoch_steps:  # in the middle of an epoch
                self._validate(state, {}, log)
            state.finished = True
            self._save(state)
            return
        for loaded in self.batches(state.step):
            batch = self._require_readable(loaded, state, metrics)
            progress = budget.progress(state.step)
            lr = float(self.settings.lr) * learning_rate_factor(self.settings, progress, self.settings.epochs)
            sums = self.distributed.all_reduce(self.step(batch, state.step, progress, lr))
            self.average.update(state.step)
            state.step += 1
            metrics.add(state.step, lr, sums)
            stop, save_due, log_due = self._decide(state)
            budget.seconds = state.seconds
            epoch_ended = state.step % self.epoch_steps == 0 or budget.is_spent(state.step)
            if epoch_ended or stop or save_due or log_due:
                self._reject_divergence(state, metrics)
            metrics.read(wait=False)
            if epoch_ended:
                self._validate(state, {"lr": lr, **metrics.means()}, log)
                metrics.start_epoch()
                state.finished = budget.is_spent(state.step) or self.early_stopping.should_stop(state)
            elif log_due and log is not None:
                self._logged_at = self.now()
                log.write(state.step, lr=lr, **metrics.means())
            self._show(state, metrics, lr)
            if epoch_ended or save_due or stop:
                state.epoch_sums = metrics.sums
                self._save(state)
                self._saved_at = self.now()
            if state.finished:
                return
            if stop:
                message = f"stopped after step {state.step:,} of {self.total_steps:,}. {self._how_to_resume()}"
                raise Stopped(message, 128 + self._signal)

    def batches(self, start: int) -> Iterator[Batch | str]:
        """Yield this process's batches from a step on, without end; for an unreadable photo, the reason."""
        is_on_gpu = self.distributed.device.type == "cuda"
        workers = self.settings.workers
        if workers is None:
            # With a GPU, all cores can decode; without, the network needs most of them.
            cores = usable_cores() // self.distributed.local_size
            workers = min(16, max(1, cores - 1)) if is_on_gpu else max(1, cores // 4)
        if self.frozen is None:
            photos = TrainPhotos(self.train.paths, self.train.labels, self.settings, self.preprocessing)
        else:
            photos = self.frozen.photos(self.train, self.val)
        loaded = load_batches(
            photos,
            start=start,
            part=(self.distributed.rank, self.distributed.size),
            total=self.total_steps,
            workers=workers,
            pin=is_on_gpu,
        )
        return loaded if self.frozen is None else self.frozen.batches(loaded)

    def _decide(self, state: TrainingState) -> tuple[bool, bool, bool]:
        """Decide whether to stop, save and log, the same in every process; updates the state's seconds.

        Rank 0's clock decides, but any process may receive the signal to stop.
        """
        now = self.now()
        save_due = now - self._saved_at >= self.settings.checkpoint_seconds
        log_due = now - self._logged_at >= _LOG_SECONDS
        decisions = (save_due, log_due, now - self._started_at) if self.distributed.is_first else (0, 0, 0)
        flags = torch.tensor([self._stop, *decisions], dtype=torch.float64)
        *due, state.seconds = self.distributed.all_reduce(flags).tolist()
        stop, save_due, log_due = map(bool, due)
        return stop, save_due, log_due

    def _show(self, state: TrainingState, metrics: StepMetrics, lr: float) -> None:
        found = metrics.means()
        if found:
            epoch = min(self.settings.epochs, 1 + state.step // self.epoch_steps)
            self.progress(
                f"training: epoch {epoch} of {self.settings.epochs}, loss {found['loss']:.3f}, "
                f"accuracy {100 * found['accuracy']:.1f} %, learning rate {lr:.2g}",
                round(state.step * len(self.train.labels) / self.epoch_steps),
                len(self.train.labels) * self.settings.epochs,
            )

    def validation_logits(self) -> Floats:
        """Predict logits (N, K) of the validation photos, from the maps of frozen stages if those are kept."""
        if self.frozen is None:
            return self.logits(self.val, "validating")
        self.frozen.prepare()
        found = self.logits(self.val, "validating", self.frozen)
        self.frozen.save()
        return found

    def logits(self, split: Split, task: str, inference: Inference | None = None) -> Floats:
        """Predict logits (N, K), preprocessed as for prediction; all processes share the work."""
        inference = inference or NetworkInference(self.network, self.preprocessing)
        try:
            return predict_logits(self.network, inference, split, self.distributed, self.progress, task)
        except ImageError as error:
            raise self._unreadable_error(str(error).rstrip(".")) from None

    def _validate(self, state: TrainingState, figures: dict[str, float], log: Log | None) -> None:
        self._sync_buffers()
        with self.average.applied():
            logits = self.validation_logits()
            if not np.isfinite(logits).all():  # finite weights may give infinite outputs
                reason = "the network's outputs on validation photos are NaN or infinite"
                self._roll_back(reason, state, state.step, self.step.optimizer.param_groups[0]["lr"])
            accuracy, loss = validation_score(logits, self.val.labels)
            if self.early_stopping.update(state, accuracy, loss):
                save_best(self.folder, state.step, self.network.state_dict(), self.distributed)
        if log is not None:
            log.write(
                state.step, epoch=state.step / self.epoch_steps, **figures, val_accuracy=accuracy, val_loss=loss,
                seconds=round(state.seconds, 2),
            )  # fmt: skip

    def _sync_buffers(self) -> None:
        """Average the running statistics over processes; each has those of its own images."""
        self.distributed.all_reduce_mean(self.network.buffers())
        self.average.all_reduce_buffers(self.distributed)

    def _save(self, state: TrainingState) -> None:
        self._sync_buffers()
        # A step may leave NaN weights, which only the next step's loss would show.
        bad = torch.zeros((), device=self.distributed.device)
        for tensor in self.network.state_dict().values():
            bad += (~torch.isfinite(tensor)).sum()
        if self.distributed.all_reduce(bad).item():
            lr = self.step.optimizer.param_groups[0]["lr"]
            self._roll_back("there are weights that are NaN or infinite", state, state.step, lr)
        state.settings = asdict(self.settings)
        save(self.folder, state, self.network, self.step.optimizer, self.average.tensors, self.distributed)

    def _reject_divergence(self, state: TrainingState, metrics: StepMetrics) -> None:
        """Wait for the metrics of all steps; roll back and raise if the loss has diverged."""
        metrics.read(wait=True)
        if found := metrics.diverged:
            self._roll_back(f"the loss is {found.mean_loss:.4g}", state, found.step, found.lr)

    def _roll_back(self, reason: str, state: TrainingState, step: int, lr: float) -> None:
        """Load and save the best weights, which are known to be finite; always raises a TrainError.

        The latest weights may be bad already: a step's damage shows only in the next one.
        """
        self.network.load_state_dict(load_best(self.folder, state.best_step))
        self.step.optimizer.state.clear()
        self.average.reset()
        state.step, state.epochs_since_best, state.epoch_sums = state.best_step, 0, [0.0] * 3
        save(self.folder, state, self.network, self.step.optimizer, self.average.tensors, self.distributed)
        raise TrainError(
            f"{reason} at step {step:,} with a learning rate of {lr:.3g}. The run is rolled back to step "
            f"{state.step:,}, the best so far. A smaller learning rate helps most often: "
            f"{resume_command(self.folder)} --lr {float(self.settings.lr) / 5:.2g}"
        )

    def _require_readable(self, batch: Batch | str, state: TrainingState, metrics: StepMetrics) -> Batch:
        """Return the batch; if any process could not read a photo, save the run and raise in all processes."""
        reason = self.distributed.first_value(batch if isinstance(batch, str) else None)
        if isinstance(batch, str) or reason is not None:
            self._reject_divergence(state, metrics)
            state.epoch_sums = metrics.sums
            self._save(state)
            raise self._unreadable_error(
                f"{str(reason).rstrip('.')}. What was trained until step {state.step:,} is kept"
            )
        return batch

    def _unreadable_error(self, what: str) -> Exception:
        """Return the error that every process raises if one cannot read a photo."""
        kept = "A run keeps the photos that it started with: put the photo back, or wait until its storage answers."
        text = f"{what}. {kept} {self._how_to_resume()}"
        return self.distributed.raised_by_all(TrainError(text))

    def _how_to_resume(self) -> str:
        return f"Resume with: {resume_command(self.folder)}"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop after the current step on Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            self._stop, self._signal = True, number
            self.progress("finishing the step; Ctrl-C again stops at once", 0, 1)
            if self.distributed.size == 1:  # torchrun sends each process a second SIGINT itself
                signal.signal(signal.SIGINT, signal.default_int_handler)

        with signal_handler(ask, (signal.SIGINT, *TERMINATION_SIGNALS)):
            yield
