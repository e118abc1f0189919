"""`Settings`: all settings of a training run, which it keeps as settings.toml."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vertebra.data import is_public_name
from vertebra.data.shard_files import is_pattern
from vertebra.errors import UsageError, suggest
from vertebra.preprocessing import BITS, CROP_MODES, Decoding
from vertebra.storage import Location

from .presets import PRESETS
from .settings_file import one_of, read_toml, toml_value, validate_type, validate_values, within

METHODS = ("probe", "finetune", "scratch")
OPTIMIZERS = ("sgd", "adamw", "rmsprop")
SCHEDULES = ("cosine", "step", "constant")
AUGMENTS = ("none", "crop", "flip", "trivial", "rand")
BALANCES = ("none", "sampler", "loss")
DTYPES = ("float32", "bfloat16")
SPEEDS = ("auto", "eager", "fused", "compile")


@dataclass(frozen=True)
class Settings:
    """The settings of a training run.

    Fields from `preset` on are for the methods finetune and scratch; the preset fills those that are not given.
    """

    data: str
    model: str = "efficientnet_lite0"
    weights: str = "DEFAULT"
    method: str = one_of(METHODS, default="probe")
    seed: int = within(0, 2**63 - 1, default=0)
    precision: float = within(0, 1, default=0.95)  # target of the threshold
    strict: bool = False  # reject data with problems; fail if `precision` is not reached, but keep the run
    ignore: tuple[str, ...] = ()  # folders, labels, splits or columns of the data to ignore
    allow_unseen: bool = False  # drop classes without training photos instead of rejecting the data
    folds: int = within(2, 50, default=5)  # probe: folds of cross-validation, if the data has no split
    # Share of a photo's shorter side in the centre crop, as in timm; 0.875 in most ImageNet papers.
    crop_pct: float = within(0.1, 1, default=1.0)
    # "center" keeps a photo's aspect ratio and cuts off the ends of its longer side, "squash" keeps the whole photo.
    # None: squash for a probe of many photos whose crop_pct is 1, else center; other methods train on random crops.
    crop_mode: str | None = one_of(CROP_MODES, default=None)
    # Significant bits of 16-bit files without that metadata: white is 2**bits - 1; None: 16.
    bits: int | None = within(*BITS, default=None)
    # For a table: column names (None: detected), and the folder that its paths are relative to (None: the table's).
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None
    ray: str | None = None  # address of a Ray cluster that computes features: "local", "auto" or HOST:PORT
    cwd: str | None = None  # that `data`, `weights` and `image_root` are relative to; None: they are absolute

    preset: str | None = one_of(tuple(PRESETS), default=None)  # see `presets`
    epochs: int = within(1, 100_000, default=5)
    time_budget: str | None = None  # of the whole run, such as "20m"; the schedule ends by then at the latest
    batch_size: int = within(1, 1_000_000, default=32)  # images of a step, over all processes
    accumulate: int = within(1, 1_000_000, default=1)  # micro-batches of a step
    # Pixels; None: that of the weights, or with scratch, 32 for small pictures.
    image_size: int | None = within(8, 2048, default=None)

    optimizer: str = one_of(OPTIMIZERS, default="sgd")
    lr: float | str = 0.01  # or "auto": by a range test
    momentum: float = within(0, 0.9999, default=0.9)
    nesterov: bool = False
    weight_decay: float = within(0, 1, default=1e-4)
    norm_weight_decay: float | None = within(0, 1, default=None)  # of biases and norm layers; None: the same
    layer_decay: float = within(0.1, 1, default=1.0)  # learning rate of a stage relative to the next stage
    freeze: int = within(0, 1000, default=0)  # number of frozen stages, from the stem on
    # Random crops of a photo, used in turn, whose maps behind the frozen stages are kept. 0: none are kept, and each
    # epoch makes new crops. None: chosen by `choose_views`.
    frozen_views: int | None = within(0, 10_000, default=None)
    schedule: str = one_of(SCHEDULES, default="cosine")
    step_epochs: float = within(1e-3, 1e6, default=30.0)  # schedule "step": epochs between two decays
    gamma: float = within(1e-6, 1, default=0.1)  # schedule "step": factor of each decay
    warmup: float = within(0, 1e5, default=0.0)  # epochs of linear warm-up

    label_smoothing: float = within(0, 0.99, default=0.0)
    mixup: float = within(0, 100, default=0.0)  # alpha; 0: off
    cutmix: float = within(0, 100, default=0.0)  # alpha; 0: off
    augment: str = one_of(AUGMENTS, default="flip")
    crop_scale: float = within(0.01, 1, default=0.08)  # minimum share of a photo's area in a random crop
    magnitude: int = within(0, 30, default=9)  # of augment "rand"
    erasing: float = within(0, 1, default=0.0)  # probability
    dropout: float | None = within(0, 0.99, default=None)  # rate; None: the network's own
    ema: float = within(0, 0.999999, default=0.0)  # decay of the average of the weights; 0: off
    balance: str = one_of(BALANCES, default="none")
    shuffle_shards: int = within(1, 100_000, default=8)  # of photos in shards: this many are shuffled together
    progressive: int = within(0, 100, default=0)  # stages of growing image size and regularisation; 0: off
    patience: int = within(0, 100_000, default=0)  # epochs without a better one before early stopping; 0: never

    dtype: str = one_of(DTYPES, default="float32")
    # How steps are computed, with the same results up to rounding: see `step_module`. The run keeps what auto chooses.
    speed: str = one_of(SPEEDS, default="auto")
    workers: int | None = within(0, 256, default=None)  # decoding processes; None: from the number of cores
    checkpoint_seconds: float = within(0, 1e6, default=60.0)

    def __post_init__(self) -> None:
        validate_values(self)
        if self.lr != "auto" and not (isinstance(self.lr, float | int) and 0 < self.lr <= 100):
            raise UsageError(f'lr is {self.lr!r}; it must be above 0 and at most 100, or "auto".')
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate is {self.accumulate}, and a batch has only {self.batch_size} images.")
        _ = self.seconds

    @property
    def decoding(self) -> Decoding:
        """How files are decoded."""
        return Decoding(bits=self.bits)

    @property
    def columns(self) -> dict[str, str | None]:
        """Arguments of `resolve_source` for a table."""
        root = None if self.image_root is None else self._resolve_path(self.image_root)
        names = ("path_column", "label_column", "split_column")
        return {name: getattr(self, name) for name in names} | {"image_root": root}

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `open_dataset`."""
        return {"ignore": self.ignore, "allow_unseen": self.allow_unseen, **self.columns}

    @property
    def resolved_data(self) -> str:
        """`data` relative to the current folder, wherever the run started; a public data set by its name."""
        path = self._resolve_path(self.data)
        return self.data if is_public_name(self.data, Path(path)) else path

    @property
    def resolved_weights(self) -> str:
        """`weights` relative to the current folder, wherever the run started."""
        return self._resolve_path(self.weights)

    def _resolve_path(self, text: str) -> str:
        if self.cwd is None or Path(self.cwd).resolve() == Path.cwd():
            return text
        if Location(text).is_remote or Path(text).is_absolute():
            return text
        path = Path(self.cwd, text)
        if path.exists():
            return str(path)
        # The folder's name is no pattern, whatever its characters are.
        return str(Path(glob.escape(self.cwd), text)) if is_pattern(text) else text

    @property
    def seconds(self) -> float | None:
        """The time budget in seconds; None: there is none."""
        if self.time_budget is None:
            return None
        found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", self.time_budget.replace(" ", ""))
        total = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
        if total <= 0:
            raise UsageError(f"time_budget is {self.time_budget!r}; write it as 45s, 20m or 1h30m.")
        return float(total)

    def shown(self) -> dict[str, str]:
        """Return the settings that the method uses, as text."""
        used = {name: value for name, value in self._used().items() if name != "cwd"}
        return {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in used.items()}

    def _used(self) -> dict[str, Any]:
        """Return the settings that have a value and that the method uses."""
        found = {name: value for name, value in asdict(self).items() if value is not None and value != ()}
        return {name: value for name, value in found.items() if _is_used(name, self.method)}

    def to_toml(self) -> str:
        """Format as TOML, without settings that are None.

        Encode it with `surrogateescape`, which keeps path bytes that are not UTF-8.
        """
        return "".join(f"{name} = {toml_value(value)}\n" for name, value in self._used().items())

    @staticmethod
    def from_mapping(values: Mapping[str, Any], source: str) -> Settings:
        """Validate names and types, and fill in the preset.

        A preset's learning rate is scaled linearly with the batch size (Goyal et al. 2017).

        Raises:
            UsageError: an unknown name, a value of the wrong type, or a setting that would have no effect.
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
                hint = suggest(name, known) or _suggest_setting(name) or f"Settings are {', '.join(known)}."
                raise UsageError(f"{source} has an unknown setting {name!r}. {hint}")
            checked[name] = validate_type(name, value, str(known[name].type), source)
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
        _reject_unused(settings, given, source)
        return settings

    @staticmethod
    def from_toml(path: Path) -> Settings:
        """Read a TOML file; errors as of `from_mapping`."""
        return Settings.from_mapping(read_toml(path), str(path))


# Settings of earlier versions, which their runs still name: only the default value is accepted.
_REMOVED = {
    "fsdp": (
        "That setting is gone: the weights of every network here fit into one GPU. Leave it out; several processes "
        "train together with DDP: torchrun --nproc-per-node 2 -m vertebra train …, and a run that has the setting goes "
        "on with: vertebra train --resume RUN --set fsdp=false"
    ),
    "compile": (
        "That setting is part of speed now: leave it out, and set speed=compile; a run that has the setting goes on "
        "with: vertebra train --resume RUN --set compile=false --set speed=compile"
    ),
}
# Settings that every method uses from the start.
_COMMON_FIELDS = (
    *("data", "ignore", "allow_unseen", "path_column", "label_column", "split_column", "image_root"),
    *("model", "weights", "method", "seed", "crop_pct", "crop_mode", "bits", "cwd"),
)
# Settings that cannot change during a run, as what has been done depends on them.
FIXED = (*_COMMON_FIELDS, "preset", "batch_size", "image_size", "optimizer", "ema", "shuffle_shards")
# Settings of the probe.
_PROBE_FIELDS = (*_COMMON_FIELDS, "precision", "strict", "folds", "ray")
# Why a method does not use the other settings, and which methods do.
_UNUSED_REASONS = {
    "probe": ("the probe trains no network", "--method finetune (or scratch)"),
    "finetune": ("finetune uses a single validation split, not cross-validation", "--method probe"),
    "scratch": (
        "scratch starts from random weights and uses a single validation split",
        "--method finetune (or probe)",
    ),
}
# Settings that need a certain value of another setting.
_REQUIREMENTS: dict[str, tuple[str, Callable[[Settings], bool]]] = {
    "step_epochs": ("schedule=step", lambda s: s.schedule == "step"),
    "gamma": ("schedule=step", lambda s: s.schedule == "step"),
    "momentum": ("optimizer=sgd or rmsprop", lambda s: s.optimizer != "adamw"),
    "nesterov": ("optimizer=sgd and a momentum", lambda s: s.optimizer == "sgd" and s.momentum > 0),
    "magnitude": ("augment=rand", lambda s: s.augment == "rand"),
    "crop_scale": ("an augment other than none", lambda s: s.augment != "none"),
    "speed": ("dtype=float32 to be fused", lambda s: s.speed != "fused" or s.dtype == "float32"),
}


def _is_used(name: str, method: str) -> bool:
    if method == "probe":
        return name in _PROBE_FIELDS
    return name != "folds" and not (name in ("weights", "ray") and method == "scratch")


def _reject_unused(settings: Settings, given: Mapping[str, Any], source: str) -> None:
    """Reject settings that were given and would have no effect.

    Values equal to those of the preset or the default are accepted, as a run's settings.toml names them. Earlier
    versions wrote even settings that the method does not use.
    """
    usual = asdict(Settings(data=settings.data))
    if settings.preset is not None:
        usual |= PRESETS[settings.preset].values()
    changed = {name for name, value in given.items() if value != usual[name]}
    of_earlier_version = {"model", "weights", "method", "folds", "checkpoint_seconds"} <= given.keys()
    idle = [name for name in given if not _is_used(name, settings.method)]
    if idle := [name for name in idle if name in changed or not of_earlier_version]:
        why, other = _UNUSED_REASONS[settings.method]
        raise UsageError(f"{' and '.join(idle)} would do nothing: {why}. Leave it out, or take {other}.")
    for name, (needed, is_met) in _REQUIREMENTS.items():
        if settings.method != "probe" and name in changed and not is_met(settings):
            raise UsageError(
                f"{source}: {name} = {toml_value(given[name])} would do nothing: it takes {needed}. Leave it out or at "
                f"{toml_value(usual[name])}, or set that too."
            )


# Names in other tools.
_ALIASES = {
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


def _suggest_setting(name: str) -> str:
    """Return a hint such as "Did you mean 'lr'?" for a name in other tools, or ""."""
    found = [setting for other, setting in _ALIASES.items() if suggest(name, [other])]
    return f"Did you mean {found[0]!r}?" if found else ""
