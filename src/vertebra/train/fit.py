"""Training steps: from a checkpoint to the last step, whatever happens in between."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.card import Preprocessing
from vertebra.data import Photo
from vertebra.errors import ImageError, first_line
from vertebra.machine import usable_cores
from vertebra.models import ConvNet
from vertebra.pixels import network_pixels
from vertebra.progress import Progress
from vertebra.runtime.prefetch import in_order
from vertebra.stopping import SIGNALS, handled_by

from . import schedule as recipe
from .batch_limits import check_photos
from .batch_loader import Batch, TrainPhotos, seed_generators, seed_of, steps_of_epoch, stream
from .distributed import LostProcessError, World, apart, is_of_another
from .loss import Loss, to_images
from .malloc import memory_kept
from .metrics import Floats, Labels
from .run_checkpoint import Position, load, load_best, save, save_best
from .run_folder import Stopped, TrainError, resume_command
from .step_metrics import Figures, Pending, Window
from .temperature import cross_entropy, fit_temperature
from .train_settings import Settings
from .training_log import Log

_LOG_SECONDS = 10.0
_HOPELESS = 100  # times the loss of guessing


@dataclass(frozen=True)
class Part:
    """Photos of one use, by their files and the numbers of their classes."""

    paths: list[Path]
    labels: Labels

    def photos(self, names: Sequence[str]) -> list[Photo]:
        """As a data set has them."""
        return [Photo(path, names[label]) for path, label in zip(self.paths, self.labels.tolist(), strict=True)]


@dataclass
class Trainer:
    """One network in training.

    `fit` goes from the step of the checkpoint to the last, and leaves the best weights in the network.
    """

    settings: Settings
    network: ConvNet
    preprocessing: Preprocessing
    train: Part
    val: Part
    folder: Path
    world: World
    tell: Progress
    lag: int | None = None  # steps that the host is ahead of the device's figures; None: 1 on a GPU
    now: Callable[[], float] = time.perf_counter  # seconds
    _stop: bool = field(default=False, init=False)
    _signal: int = field(default=signal.SIGINT, init=False)  # that asked to stop

    def __post_init__(self) -> None:
        self.steps = steps_of_epoch(len(self.train.labels), self.settings)
        self.total = self.settings.epochs * self.steps
        size = self.preprocessing.crop_size
        self.least, self.notes = check_photos(
            self.settings, self.network, size, len(self.train.labels), self.world.size
        )
        self.network.to(self.world.device)
        self.network.to(memory_format=torch.channels_last)
        recipe.avoid_copies(self.network)
        recipe.freeze(self.network, self.settings.freeze)
        self.dropouts = recipe.dropouts(self.network, self.settings)
        self.optimizer = recipe.make_optimizer(self.network, self.settings)
        self.averaged: dict[str, Tensor] = {}
        self.module: Any = torch.compile(self.network) if self.settings.compile else self.network
        self.step_loss = Loss(self.settings, self.train.labels, self.network.num_classes, self.world.device)

    # --- the whole ----------------------------------------------------------------------------------------------------

    def fit(self) -> Position:
        """Train to the end.

        Raises:
            Stopped: on Ctrl-C, after the step has been finished and saved.
            TrainError: the loss is no number any more, a photo is lost, or the disk is full; says what is kept.
        """
        position = load(self.folder, self.network, self.optimizer, self.averaged if self.settings.ema else None)
        if not position.finished:
            self.module = self.world.replicate(self.module)
            log = Log(self.folder, position.step) if self.world.first else None
            with self._signals(), memory_kept(), log or nullcontext():
                try:
                    self._steps(position, log)
                except RuntimeError as error:
                    if not is_of_another(error):
                        raise
                    raise LostProcessError(first_line(error)) from error
        self.world.barrier()  # rank 0 has written what all read now
        self._take(position.best_step)
        return position

    def _take(self, step: int) -> None:
        """The best weights into the network."""
        weights = load_best(self.folder, step)
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                tensor.copy_(weights[name])

    def _steps(self, position: Position, log: Log | None) -> None:
        first = self.world.first
        started = self.now() - position.seconds
        # The export takes about 12 s on two cores, and looking at a photo some 30 ms.
        clock = Clock(self.settings, self.total, position.seconds, 12 + 0.06 * len(self.val.labels))
        lag = int(self.world.device.type == "cuda") if self.lag is None else self.lag
        pending, window = Pending(lag), Window(self.now)
        saved = logged = self.now()
        if position.step and clock.over(position.step):  # it was stopped behind what has become the end
            if position.step % self.steps:  # in the middle of an epoch
                self._validate(position, {}, log)
            position.finished = True
            self._save(position)
            return
        for batch in self._stream(position.step):
            lost = self.world.first_of(batch if isinstance(batch, str) else None)
            if isinstance(batch, str) or lost is not None:
                self._read(pending, window, position, every=True)
                self._save(position)
                raise self._lost(f"{lost}. What was trained until step {position.step:,} is kept")
            progress = clock.progress(position.step)
            lr = float(self.settings.lr) * recipe.rate(self.settings, progress, self.settings.epochs)
            sums = self.world.sum(self._step(batch, position.step, progress, lr))
            if self.settings.ema:
                self._average(position.step)
            position.step += 1
            pending.put(position.step, lr, sums)
            now = self.now()
            due = now - saved >= self.settings.checkpoint_seconds, now - logged >= _LOG_SECONDS, now - started
            # The first process decides for all, but any of them may be asked to stop.
            flags = torch.tensor([self._stop, *(due if first else (0, 0, 0))], dtype=torch.float64)
            stop, save_due, log_due, position.seconds = self.world.sum(flags).tolist()
            clock.seconds = position.seconds
            ended = position.step % self.steps == 0 or clock.over(position.step)
            # What is written is the same whenever the device tells of its steps.
            self._read(pending, window, position, every=bool(ended or stop or save_due or log_due))
            if ended:
                self._validate(position, {"lr": lr, **window.means()}, log)
                window = Window(self.now)
                position.finished = clock.over(position.step) or self._tired(position)
            elif log_due and log is not None:
                logged = now
                log.write(position.step, lr=lr, **window.means())
            self._show(position, window, lr)
            if ended or save_due or stop:
                self._save(position)
                saved = self.now()
            if position.finished:
                return
            if stop:
                message = f"stopped after step {position.step:,} of {self.total:,}. {self._go_on()}"
                raise Stopped(message, 128 + self._signal)

    def _stream(self, start: int) -> Iterator[Batch | str]:
        workers = self.settings.workers
        if workers is None:
            # On a GPU decoding is all that the cores have to do; else the network needs them.
            cores = usable_cores() // self.world.local_size
            workers = min(16, max(1, cores - 1)) if self.world.device.type == "cuda" else max(1, cores // 4)
        photos = TrainPhotos(self.train.paths, self.train.labels, self.settings, self.preprocessing)
        return stream(
            photos,
            start=start,
            part=(self.world.rank, self.world.size),
            total=self.total,
            workers=workers,
            pin=self.world.device.type == "cuda",
        )

    # --- one step -----------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, step: int, progress: float, lr: float) -> Tensor:
        """Forward, backward, update; (3,) loss, right and count of this process."""
        # Everything random in a step (dropout, stochastic depth, mixing) follows from its number.
        seed_generators(seed_of(self.settings.seed, 2, step, self.world.rank))
        now = recipe.strength(self.settings, self.preprocessing.crop_size, progress)
        recipe.set_dropout(self.network, self.dropouts, now.dropout)
        recipe.set_training(self.network, self.settings)
        recipe.set_rate(self.optimizer, lr)
        of_all = self._batch_size(step)
        pixels, labels = batch[0].to(self.world.device, non_blocking=True), batch[1].to(self.world.device)
        images, targets = self.step_loss.mixed(to_images(pixels, self.preprocessing), labels, now.mixup)
        loss_sum, right, count = sums = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        sizes = micro_batches(len(images), self.settings.accumulate, self.least)
        pairs = zip(torch.split(images, sizes), torch.split(targets, sizes), strict=True)
        for number, (x, y) in enumerate(pairs, start=1):
            with apart(self.module, last=number == len(sizes)), self._autocast():
                outputs = self.module(x)
                loss = self.step_loss(outputs, y)  # summed over the images
            # The processes' gradients are averaged, so the sum over all of them is divided by the batch of all.
            torch.autograd.backward(loss * (self.world.size / of_all))
            logits = (outputs if isinstance(outputs, Tensor) else outputs.logits).detach()
            truth = y if y.ndim == 1 else y.argmax(1)
            loss_sum += loss.detach()
            right += (logits.argmax(1) == truth).sum()
            count += len(x)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums

    def _batch_size(self, step: int) -> int:
        """Images of all processes in that step: `np.array_split` gives the first parts one more."""
        count = len(self.train.labels)
        return count // self.steps + (step % self.steps < count % self.steps)

    def _autocast(self) -> Any:
        if self.settings.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    def _average(self, step: int) -> None:
        # A new average follows faster, so that the drawn weights are soon forgotten (as in TensorFlow's).
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                if tensor.is_floating_point():
                    self.averaged[name].lerp_(tensor, 1 - decay)
                else:
                    self.averaged[name].copy_(tensor)

    def _read(self, pending: Pending, window: Window, position: Position, *, every: bool) -> None:
        for figures in pending.take(every=every):
            self._check(figures, position)
            window.add(figures)

    def _check(self, figures: Figures, position: Position) -> None:
        """A loss far above that of guessing comes from weights that no smaller rate would mend."""
        loss = figures.loss / max(figures.images, 1)
        if not loss <= _HOPELESS * math.log(max(2, self.network.num_classes)):
            self._set_back(f"the loss is {loss:.4g}", position, figures.step, figures.lr)

    def _set_back(self, what: str, position: Position, step: int, lr: float) -> None:
        """Go back to the best weights, which are known to be sound: a step may spoil what only the next one tells of.

        Raises:
            TrainError: always; says how to go on.
        """
        self._take(position.best_step)
        self.optimizer.state.clear()
        self.averaged.update({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        position.step, position.epochs_since_best = position.best_step, 0
        averaged = self.averaged if self.settings.ema else {}
        save(self.folder, position, self.network, self.optimizer, averaged, self.world)
        raise TrainError(
            f"{what} at step {step:,} with a learning rate of {lr:.3g}. The run is set back to step "
            f"{position.step:,}, which was the best until then. A smaller rate helps most often: "
            f"{resume_command(self.folder)} --lr {float(self.settings.lr) / 5:.2g}"
        )

    def _refuse_outputs(self, position: Position) -> None:
        what = "the network's outputs on validation photos are NaN or infinite"
        if not position.step:
            raise TrainError(f"{what} before the first step: the weights that were given cannot be trained on.")
        self._set_back(what, position, position.step, self.optimizer.param_groups[0]["lr"])

    # --- now and then -------------------------------------------------------------------------------------------------

    def _validate(self, position: Position, figures: dict[str, float], log: Log | None) -> None:
        with self._evaluated():
            logits = self.logits(self.val, "choosing")
            if not np.isfinite(logits).all():  # weights may be finite, and what they compute not
                self._refuse_outputs(position)
            accuracy, loss = score(logits, self.val.labels)
            position.epochs_since_best += 1
            if (accuracy, -loss) > (position.best_score, -position.best_loss):
                position.best_score, position.best_loss = accuracy, loss
                position.best_step, position.epochs_since_best = position.step, 0
                save_best(self.folder, position.step, self.network.state_dict(), self.world)
        if log is not None:
            epoch = position.step / self.steps
            log.write(
                position.step, epoch=epoch, **figures, val_accuracy=accuracy, val_loss=loss,
                seconds=round(position.seconds, 2),
            )  # fmt: skip

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Inside, the network has the weights that would be shipped now."""
        self._agree()
        state = self.network.state_dict()
        if not self.averaged:
            yield
            return
        with torch.no_grad():
            own = {name: tensor.clone() for name, tensor in state.items()}
            try:
                for name, tensor in state.items():
                    tensor.copy_(self.averaged[name])
                yield
            finally:
                for name, tensor in state.items():
                    tensor.copy_(own[name])

    def _agree(self) -> None:
        """Running statistics, which each process has of its own images, averaged over all."""
        names = {name for name, _ in self.network.named_buffers()}
        self.world.average(self.network.buffers())
        self.world.average(tensor for name, tensor in self.averaged.items() if name in names)

    def logits(self, part: Part, what: str) -> Floats:
        """(N, K) of photos as they are classified later; all processes share the work."""
        mine = range(self.world.rank, len(part.paths), self.world.size)
        found = torch.zeros(len(part.paths), self.network.num_classes, dtype=torch.float64)
        pixels = in_order(
            [part.paths[i] for i in mine],
            lambda paths: [network_pixels(path, self.preprocessing) for path in paths],
            workers=max(1, usable_cores() // self.world.local_size),
            chunk=1,
        )
        self.network.eval()
        size = 16
        lost = None
        try:
            for start in range(0, len(mine), size):
                batch = np.stack([next(pixels) for _ in mine[start : start + size]])
                images = to_images(torch.from_numpy(batch).to(self.world.device), self.preprocessing)
                with torch.inference_mode():
                    found[list(mine[start : start + size])] = self.network(images).double().cpu()
                self.tell(what, start * self.world.size, len(part.paths))
        except ImageError as error:
            lost = str(error)
        finally:
            pixels.close()  # type: ignore[attr-defined]
        lost = self.world.first_of(lost)
        if lost is not None:
            raise self._lost(lost)
        return self.world.sum(found.to(self.world.device)).float().cpu().numpy()

    def _save(self, position: Position) -> None:
        self._agree()
        # A step may leave weights that only the next one's loss would tell of.
        bad = torch.zeros((), device=self.world.device)
        for tensor in self.network.state_dict().values():
            bad += (~torch.isfinite(tensor)).sum()
        if self.world.sum(bad).item():
            lr = self.optimizer.param_groups[0]["lr"]
            self._set_back("there are weights that are no numbers", position, position.step, lr)
        position.settings = asdict(self.settings)
        save(self.folder, position, self.network, self.optimizer, self.averaged, self.world)

    def _tired(self, position: Position) -> bool:
        return 0 < self.settings.patience <= position.epochs_since_best

    def _show(self, position: Position, window: Window, lr: float) -> None:
        found = window.means()
        if found:
            epoch = min(self.settings.epochs, 1 + position.step // self.steps)
            self.tell(
                f"training: epoch {epoch} of {self.settings.epochs}, loss {found['loss']:.3f}, "
                f"{100 * found['accuracy']:.1f} % right, rate {lr:.2g}",
                round(position.step * len(self.train.labels) / self.steps),
                len(self.train.labels) * self.settings.epochs,
            )

    def _lost(self, what: str) -> Exception:
        """What every process raises where one of them cannot read a photo."""
        text = f"{what}. Put the photo back: a run goes on with those that it began with. {self._go_on()}"
        return self.world.told(TrainError(text))

    def _go_on(self) -> str:
        return f"Go on with: {resume_command(self.folder)}"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and a polite kill end the run after the step; a second Ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            self._stop, self._signal = True, number
            self.tell("finishing the step; Ctrl-C again stops at once", 0, 1)
            if self.world.size == 1:  # torchrun sends each process a second one by itself
                signal.signal(signal.SIGINT, signal.default_int_handler)

        with handled_by(ask, (signal.SIGINT, *SIGNALS)):
            yield


@dataclass
class Clock:
    """How much of the training is done: by steps, or by time where there is a budget.

    With a budget the clock decides, so such a run is not repeated to the bit.
    """

    settings: Settings
    total: int
    seconds: float

    reserve: float = 0.0  # of the budget, for the last look at the photos, the export and the report

    def progress(self, step: int) -> float:
        """From 0 to 1."""
        budget = self.settings.seconds
        by_steps = step / self.total
        if budget is None:
            return min(1.0, by_steps)
        return min(1.0, max(by_steps, self.seconds / max(1.0, budget - self.reserve)))

    def over(self, step: int) -> bool:
        """Whether the last step has been done."""
        return self.progress(step) >= 1.0


def micro_batches(images: int, accumulate: int, least: int = 1) -> list[int]:
    """Images of each part of a step: as equal as can be, and none of fewer than `least` where there are as many."""
    parts = max(1, min(accumulate, images // least))
    return [images // parts + (number < images % parts) for number in range(parts)]


def score(logits: Floats, labels: Labels) -> tuple[float, float]:
    """By which epochs are compared: accuracy, and the cross-entropy at the best temperature."""
    loss = cross_entropy(logits / fit_temperature(logits, labels), labels)
    return float((logits.argmax(1) == labels).mean()), loss


def range_test(trainer: Trainer, *, steps: int = 60) -> tuple[float, list[tuple[float, float]]]:
    """A learning rate, and the loss at each rate that was tried (Smith 2017).

    The rate rises tenfold every few steps from far too small until the loss is four times its least; a tenth of where
    it was least is taken. The network is left as it was.
    """
    settings = trainer.settings
    low, high = (1e-6, 0.1) if settings.optimizer == "adamw" else (1e-5, 3.0)
    kept = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    tried: list[tuple[float, float]] = []
    smooth = 0.0
    for number, batch in enumerate(trainer._stream(0)):
        if isinstance(batch, str):
            raise TrainError(batch)
        lr = low * (high / low) ** (number / (steps - 1))
        loss_sum, _, count = trainer._step(batch, number, 0.0, lr).tolist()
        smooth = 0.8 * smooth + 0.2 * loss_sum / count
        loss = smooth / (1 - 0.8 ** (number + 1))
        trainer.tell("finding a learning rate", number + 1, steps)
        if math.isfinite(loss):
            tried.append((lr, loss))
        if number + 1 >= steps or not math.isfinite(loss) or loss > 4 * min(value for _, value in tried):
            break
    with torch.no_grad():
        for name, tensor in trainer.network.state_dict().items():
            tensor.copy_(kept[name])
    trainer.optimizer.state.clear()
    best = min(tried, key=lambda entry: entry[1])[0] if tried else low * 10
    return float(f"{best / 10:.2g}"), tried
