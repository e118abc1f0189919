"""The 1,000 classes of ImageNet-1K: their names and their WordNet IDs (wnids), in the order of the logits.

The order is that of the sorted wnids, in torchvision, timm and Keras alike. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

COUNT = 1000
# Classes that torchvision named like another one until it told them apart; files may still have these names, and
# WordNet has them.
FORMER_NAMES = {134: "crane", 639: "maillot"}


@cache
def class_names() -> list[str]:
    """`["tench", "goldfish", …]`: the names that torchvision has."""
    return files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()


@cache
def wnids() -> list[str]:
    """`["n01440764", "n01443537", …]`."""
    return files(__package__).joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()


def is_imagenet(classes: Sequence[str] | None) -> bool:
    """Whether these are the 1,000 classes in their order, by the names that torchvision has now or had before."""
    if classes is None or len(classes) != COUNT:
        return False
    pairs = zip(classes, class_names(), strict=True)
    return all(name == known or FORMER_NAMES.get(index) == name for index, (name, known) in enumerate(pairs))
