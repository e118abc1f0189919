"""Published weights: where they lie, what they were trained for, how their input is made.

The enums have the names, members and `meta` of torchvision's, so that either library's member can be given to the other
library's user. One call of `entry` is one row of a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from vertebra import weight_files
from vertebra.card import Preprocessing
from vertebra.errors import UsageError, suggest
from vertebra.files import WEIGHT_SUFFIXES
from vertebra.imagenet import class_names

from . import weight_reader
from ._preset import ImageClassification

REFERENCES = "https://github.com/pytorch/vision/tree/main/references/classification"
ISSUES = "https://github.com/pytorch/vision/issues"
BLOG = "https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/"
REPRODUCED = "These weights reproduce closely the results of the paper using a simple training recipe."
PORTED = "These weights are ported from the original paper."


@dataclass(frozen=True)
class Weights:
    """One published file.

    `url` is where it is downloaded from; `package:NAME/FILE` is a file inside an installed Python package. `meta` holds
    `categories`, `num_params`, `min_size` (pixels), `_metrics` (%), `_ops` (GMACs an image), `_file_size` (MiB),
    `recipe` and `_docs`.
    """

    url: str
    preprocessing: Preprocessing
    meta: dict[str, Any]

    def transforms(self, **changes: Any) -> ImageClassification:
        """The preprocessing as a callable: a PIL image or a tensor → (3, H, W). `changes` replace its settings."""
        antialias = changes.pop("antialias", True)
        return ImageClassification(replace(self.preprocessing, **changes), antialias=antialias)


class WeightsEnum(Enum):
    """The published weights of one network; `DEFAULT` is the best of them."""

    @classmethod
    def verify(cls, obj: Any) -> Self | None:
        """A member of this enum from itself, from torchvision's member or from a name such as "DEFAULT".

        Raises:
            UsageError: there is no such member.
        """
        if obj is None or isinstance(obj, cls):
            return obj
        if isinstance(obj, Enum) and type(obj).__name__ == cls.__name__:
            obj = obj.name
        if not isinstance(obj, str):
            raise UsageError(
                f"weights is {obj!r}; expected a member of {cls.__name__} ({', '.join(cls.__members__)}), its name, "
                "or a path to a .pth or .safetensors file."
            )
        return cls.named(obj.removeprefix(f"{cls.__name__}."))

    @classmethod
    def named(cls, name: str) -> Self:
        """The member of that name, or a `UsageError` with the names that there are."""
        known = cls.__members__
        if name not in known:
            raise UsageError(
                f"{cls.__name__} has no weights {name!r}; it has {', '.join(known)}. {suggest(name, known)} "
                "(weights= takes a path to a .pth or .safetensors file, too.)"
            )
        return cls[name]

    def get_state_dict(self, progress: bool = True, check_hash: bool = True) -> dict[str, Tensor]:
        """The file's tensors, downloaded first where it is not in the cache."""
        return weight_reader.read_state_dict(weight_files.fetch(self.url, progress=progress, check_hash=check_hash))

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    @property
    def url(self) -> str:
        return self.value.url  # type: ignore[no-any-return]

    @property
    def preprocessing(self) -> Preprocessing:
        return self.value.preprocessing  # type: ignore[no-any-return]

    @property
    def transforms(self) -> Any:
        return self.value.transforms

    @property
    def meta(self) -> dict[str, Any]:
        return self.value.meta  # type: ignore[no-any-return]


def resolve(weights_enum: type[WeightsEnum], weights: Any) -> WeightsEnum | Path | None:
    """What `weights=` means: a member, a file, or nothing.

    A file that bears a published name is that member's, with all that is known of it.
    """
    if isinstance(weights, str) and weights.removeprefix(f"{weights_enum.__name__}.") not in weights_enum.__members__:
        path = Path(weights)
        if path.suffix.lower() in WEIGHT_SUFFIXES or len(path.parts) > 1 or path.exists():
            return path  # if it is none, the reader says so better
    if isinstance(weights, Path):
        return weights
    return weights_enum.verify(weights)


def published(weights_enum: type[WeightsEnum], source: WeightsEnum | Path) -> WeightsEnum | None:
    """The member that a source is: itself, or that whose file has this name; None for others."""
    if isinstance(source, WeightsEnum):
        return source
    return next((member for member in weights_enum if member.url.rsplit("/", 1)[-1] == source.name), None)


def entry(
    file: str,
    *,
    params: int,
    acc: tuple[float, float | None],
    gmacs: float,
    mib: float,
    recipe: str,
    docs: str,
    crop: int = 224,
    resize: int = 256,
    min_size: int = 1,
    classes: bool = True,
    **preprocessing: Any,
) -> Weights:
    """One row of a table of weights.

    Args:
        file: its name on torchvision's server, or `package:NAME/FILE`; without ".pth".
        params: number of parameters.
        acc: top-1 and top-5 accuracy on ImageNet, in %; None: not published.
        gmacs: 10⁹ multiply-accumulates an image.
        mib: size of the file in MiB.
        recipe: address of the training recipe.
        docs: a sentence for people.
        crop: side of the image, in pixels.
        resize: its shorter side before the crop.
        min_size: smallest side of an image.
        classes: False marks a file without a usable classifier.
        preprocessing: other fields of `Preprocessing`.
    """
    accuracies = {name: value for name, value in zip(("acc@1", "acc@5"), acc, strict=True) if value is not None}
    return Weights(
        url=("" if file.startswith("package:") else "https://download.pytorch.org/models/") + f"{file}.pth",
        preprocessing=Preprocessing(crop_size=crop, resize_size=resize, **preprocessing),
        meta={
            "num_params": params,
            "min_size": (min_size, min_size),
            "categories": class_names() if classes else None,
            "recipe": recipe,
            "_metrics": {"ImageNet-1K": accuracies},
            "_ops": gmacs,
            "_file_size": mib,
            "_docs": docs,
        },
    )
