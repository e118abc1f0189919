"""Everything that decides a training run, in one record; a run keeps its own as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError, suggest
from vertebra.preprocessing import BITS, Decoding

from .presets import PRESETS
from .settings_file import check_values, checked_type, one_of, read_toml, toml_value, within

METHODS = ("probe", "finetune", "scratch")
OPTIMIZERS = ("sgd", "adamw", "rmsprop")
SCHEDULES = ("cosine", "step", "constant")
AUGMENTS = ("none", "crop", "flip", "trivial", "rand")
BALANCES = ("none", "sampler", "loss")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """What to train on what, and how.

    The fields from `preset` on are for the methods finetune and scratch. A preset fills those that are not given.
    """

    data: str
    model: str = "efficientnet_lite0"
    weights: str = "DEFAULT"
    method: str = one_of(METHODS, default="probe")
    seed: int = within(0, 2**63 - 1, default=0)
    precision: float = within(0, 1, default=0.95)  # target of the threshold
    strict: bool = False  # refuse data with problems; fail, with the run kept, where `precision` is not reached
    ignore: tuple[str, ...] = ()  # folders, labels, splits or columns of the data to pass by
    allow_unseen: bool = False  # leave out the photos of classes that have none to train on, instead of refusing them
    folds: int = within(2, 50, default=5)  # probe: folds of the cross-validation where the data has no split
    # Share of a photo's shorter side that becomes the input, as in timm; papers on ImageNet cut off the rest of 0.875.
    crop_pct: float = within(0.1, 1, default=1.0)
    # That 16-bit files use which do not say it: white is 2**bits - 1; None: 16.
    bits: int | None = within(*BITS, default=None)
    # Of a table: the names of its columns, where they are not plain, and what its paths are relative to (None: the
    # folder that it lies in).
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None
    cwd: str | None = None  # folder that `data`, `weights` and `image_root` are relative to; None: none is

    preset: str | None = one_of(tuple(PRESETS), default=None)  # see `presets`
    epochs: int = within(1, 100_000, default=5)
    time_budget: str | None = None  # such as "20m": the schedule ends by then, if its epochs do not end it before
    batch_size: int = within(1, 1_000_000, default=32)  # images of a step, of all processes together
    accumulate: int = within(1, 1_000_000, default=1)  # micro-batches of a step
    # Pixels; None: that of the weights; scratch: 32 for small pictures.
    image_size: int | None = within(8, 2048, default=None)

    optimizer: str = one_of(OPTIMIZERS, default="sgd")
    lr: float | str = 0.01  # or "auto": found by a range test
    momentum: float = within(0, 0.9999, default=0.9)
    nesterov: bool = False
    weight_decay: float = within(0, 1, default=1e-4)
    norm_weight_decay: float | None = within(0, 1, default=None)  # of biases and normalisations; None: as the others
    layer_decay: float = within(0.1, 1, default=1.0)  # a stage's learning rate is this times that of the next stage
    freeze: int = within(0, 1000, default=0)  # stages from the stem on that are not trained
    schedule: str = one_of(SCHEDULES, default="cosine")
    step_epochs: float = within(1e-3, 1e6, default=30.0)  # schedule "step": epochs between two decays
    gamma: float = within(1e-6, 1, default=0.1)  # schedule "step": factor of each decay
    warmup: float = within(0, 1e5, default=0.0)  # epochs in which the learning rate rises from 0

    label_smoothing: float = within(0, 0.99, default=0.0)
    mixup: float = within(0, 100, default=0.0)  # alpha; 0: off
    cutmix: float = within(0, 100, default=0.0)  # alpha; 0: off
    augment: str = one_of(AUGMENTS, default="flip")
    crop_scale: float = within(0.01, 1, default=0.08)  # least share of a photo's area that is cut out
    magnitude: int = within(0, 30, default=9)  # of augment "rand", 0 to 30
    erasing: float = within(0, 1, default=0.0)  # probability
    dropout: float | None = within(0, 0.99, default=None)  # None: as the network has it
    ema: float = within(0, 0.999999, default=0.0)  # decay of the averaged weights; 0: off
    balance: str = one_of(BALANCES, default="none")
    progressive: int = within(0, 100, default=0)  # steps in which image size and regularisation grow; 0: off
    patience: int = within(0, 100_000, default=0)  # epochs without a better one before early stopping; 0: never

    dtype: str = one_of(DTYPES, default="float32")
    compile: bool = False
    workers: int | None = within(0, 256, default=None)  # decoding processes; None: by the number of cores
    checkpoint_seconds: float = within(0, 1e6, default=60.0)

    def __post_init__(self) -> None:
        check_values(self)
        if self.lr != "auto" and not (isinstance(self.lr, float | int) and 0 < self.lr <= 100):
            raise UsageError(f'lr is {self.lr!r}; it must be above 0 and at most 100, or "auto".')
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate is {self.accumulate}, and a batch has only {self.batch_size} images.")
        _ = self.seconds

    @property
    def decoding(self) -> Decoding:
        """How the photos' files are decoded."""
        return Decoding(bits=self.bits)

    @property
    def columns(self) -> dict[str, str | None]:
        """How a table is read, as `resolve_source` takes it."""
        root = None if self.image_root is None else self._from_here(self.image_root)
        names = ("path_column", "label_column", "split_column")
        return {name: getattr(self, name) for name in names} | {"image_root": root}

    @property
    def reading(self) -> dict[str, Any]:
        """How the data are read, as `open_dataset` takes it."""
        return {"ignore": self.ignore, "allow_unseen": self.allow_unseen, **self.columns}

    @property
    def data_from_here(self) -> str:
        """`data` as it is found from this folder, wherever the run began."""
        return self._from_here(self.data)

    @property
    def weights_from_here(self) -> str:
        """`weights` as they are found from this folder, wherever the run began."""
        return self._from_here(self.weights)

    def _from_here(self, text: str) -> str:
        if self.cwd is None or Path(self.cwd).resolve() == Path.cwd():
            return text
        path = Path(self.cwd, text)  # which an absolute one is as it is
        return str(path) if path.exists() else text

    @property
    def seconds(self) -> float | None:
        """The time budget."""
        if self.time_budget is None:
            return None
        found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", self.time_budget.replace(" ", ""))
        total = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
        if total <= 0:
            raise UsageError(f"time_budget is {self.time_budget!r}; write it as 45s, 20m or 1h30m.")
        return float(total)

    def shown(self) -> dict[str, str]:
        """What has a value and matters for the method, for people."""
        used = {name: value for name, value in self._used().items() if name != "cwd"}
        return {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in used.items()}

    def _used(self) -> dict[str, Any]:
        """What has a value and matters for the method."""
        found = {name: value for name, value in asdict(self).items() if value is not None and value != ()}
        return {name: value for name, value in found.items() if _is_used(name, self.method)}

    def to_toml(self) -> str:
        """One line a setting; what is None is left out.

        To be encoded with `surrogateescape`: bytes of a path that are no UTF-8 stay what they are.
        """
        return "".join(f"{name} = {toml_value(value)}\n" for name, value in self._used().items())

    @staticmethod
    def from_mapping(values: Mapping[str, Any], source: str) -> Settings:
        """Check names and types, and fill in the preset.

        A preset's rate is for its batch size; for another one that is given without a rate, it changes in proportion
        (Goyal et al. 2017).

        Raises:
            UsageError: a name that is unknown, a value of another type, or one that would do nothing.
        """
        known = {field.name: field for field in fields(Settings)}
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name in _REMOVED:
                if value is not False:
                    raise UsageError(f"{source} has {name} = {json.dumps(value, default=str)}. {_REMOVED[name]}")
                continue
            if isinstance(value, Mapping):
                raise UsageError(f"{source} has a section [{name}]. Settings are written without sections.")
            if name not in known:
                hint = suggest(name, known) or _other_name(name) or f"Settings are {', '.join(known)}."
                raise UsageError(f"{source} has an unknown setting {name!r}. {hint}")
            checked[name] = checked_type(name, value, str(known[name].type), source)
        if "data" not in checked:
            raise UsageError(f'{source} does not say what to train on. Add data = "FOLDER".')
        given = dict(checked)
        method = checked.get("method", "probe")
        preset = checked.setdefault("preset", {"finetune": "finetune", "scratch": "small"}.get(method))
        if preset in PRESETS:
            row = PRESETS[preset].values()
            batch_size = checked.get("batch_size", row["batch_size"])
            if isinstance(row["lr"], float) and batch_size > 0:
                row["lr"] = row["lr"] * (batch_size / row["batch_size"])
            checked = row | checked
        settings = Settings(**checked)
        _refuse_idle(settings, given, source)
        return settings

    @staticmethod
    def from_toml(path: Path) -> Settings:
        """Read what `to_toml` wrote, or what a person did; errors as of `from_mapping`."""
        return Settings.from_mapping(read_toml(path), str(path))


# Settings of earlier versions, which the settings of their runs still name: only what was their usual value may stay.
_REMOVED = {
    "fsdp": (
        "That setting is gone: the weights of every network here fit into one GPU. Leave it out; several processes "
        "train together with DDP: torchrun --nproc-per-node 2 -m vertebra train …, and a run that has the setting goes "
        "on with: vertebra train --resume RUN --set fsdp=false"
    )
}
# What a run of any method begins with.
_BEGINNING = (
    *("data", "ignore", "allow_unseen", "path_column", "label_column", "split_column", "image_root"),
    *("model", "weights", "method", "seed", "crop_pct", "bits", "cwd"),
)
# What cannot change in the middle of a run: what has been done already follows from these.
FIXED = (*_BEGINNING, "preset", "batch_size", "image_size", "optimizer", "ema")
# The fields that mean something for the probe.
_PROBE = (*_BEGINNING, "precision", "strict", "folds")
# Why a method has no use for the other fields, and which methods have.
_NO_USE = {
    "probe": ("the probe trains no network", "--method finetune (or scratch)"),
    "finetune": ("finetune holds one validation set out, and no parts in turn", "--method probe"),
    "scratch": ("scratch starts from random weights and holds one validation set out", "--method finetune (or probe)"),
}
# What matters only beside a certain value of another setting.
_NEEDS: dict[str, tuple[str, Callable[[Settings], bool]]] = {
    "step_epochs": ("schedule=step", lambda s: s.schedule == "step"),
    "gamma": ("schedule=step", lambda s: s.schedule == "step"),
    "momentum": ("optimizer=sgd or rmsprop", lambda s: s.optimizer != "adamw"),
    "nesterov": ("optimizer=sgd and a momentum", lambda s: s.optimizer == "sgd" and s.momentum > 0),
    "magnitude": ("augment=rand", lambda s: s.augment == "rand"),
    "crop_scale": ("an augment other than none", lambda s: s.augment != "none"),
}


def _is_used(name: str, method: str) -> bool:
    if method == "probe":
        return name in _PROBE
    return name != "folds" and not (name == "weights" and method == "scratch")


def _refuse_idle(settings: Settings, given: Mapping[str, Any], source: str) -> None:
    """Refuse what was given and would do nothing.

    What a preset, or the setting itself, has anyway may stand beside a value that it does not matter for: a run's file
    names it. Earlier versions wrote even what the method has no use for.
    """
    usual = asdict(Settings(data=settings.data))
    if settings.preset is not None:
        usual |= PRESETS[settings.preset].values()
    changed = {name for name, value in given.items() if value != usual[name]}
    of_earlier_version = {"model", "weights", "method", "folds", "checkpoint_seconds"} <= given.keys()
    idle = [name for name in given if not _is_used(name, settings.method)]
    if idle := [name for name in idle if name in changed or not of_earlier_version]:
        why, other = _NO_USE[settings.method]
        raise UsageError(f"{' and '.join(idle)} would do nothing: {why}. Leave it out, or take {other}.")
    for name, (needed, is_met) in _NEEDS.items():
        if settings.method != "probe" and name in changed and not is_met(settings):
            raise UsageError(
                f"{source}: {name} = {toml_value(given[name])} would do nothing: it takes {needed}. Leave it out or at "
                f"{toml_value(usual[name])}, or set that too."
            )


# What others call them.
_ALSO_CALLED = {
    "learning_rate": "lr",
    "base_lr": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "img_size": "image_size",
    "input_size": "image_size",
    "drop_rate": "dropout",
    "early_stopping": "patience",
    "random_state": "seed",
}


def _other_name(name: str) -> str:
    """The hint for a setting that has another name elsewhere: `"Did you mean 'lr'?"`, or `""`."""
    found = [setting for other, setting in _ALSO_CALLED.items() if suggest(name, [other])]
    return f"Did you mean {found[0]!r}?" if found else ""
