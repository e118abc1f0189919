"""Training recipes: published ones, one row each, and two of our own.

A row has the optimiser, schedule and regularisation of its source. Dropout and stochastic depth are the network's own.
A learning rate is for its batch size.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """One recipe; columns are fields of `Settings`."""

    optimizer: str
    lr: float | str
    batch_size: int
    epochs: int
    momentum: float
    weight_decay: float
    schedule: str
    step_epochs: float
    gamma: float
    warmup: float
    label_smoothing: float
    augment: str
    mixup: float
    cutmix: float
    erasing: float
    ema: float
    others: tuple[tuple[str, Any], ...] = ()

    def values(self) -> dict[str, Any]:
        """Field of `Settings` -> value."""
        *columns, others = self._asdict().items()
        return dict(columns) | dict(others[1])


# The papers test on the centre 224 pixels of 256.
_CENTRE = (("crop_pct", 0.875),)
_NORM_FREE = (("norm_weight_decay", 0.0),)
_GROWING = (("progressive", 4), ("magnitude", 15))

# fmt: off
PRESETS: dict[str, Preset] = {
    # Ours: a few epochs from a probe's head, on hundreds to some ten thousand photos.
    "finetune": Preset("sgd", 0.01, 32, 5, 0.9, 1e-4, "cosine", 30, 0.1, 0.5, 0.1, "flip", 0, 0, 0, 0,
        (("nesterov", True), ("crop_scale", 0.35), *_NORM_FREE)),
    # Ours: CIFAR-sized pictures from random weights, after He et al. 2016, 4.2, with a cosine schedule.
    "small": Preset("sgd", 0.1, 128, 60, 0.9, 5e-4, "cosine", 30, 0.1, 3, 0.1, "flip", 0, 0, 0, 0,
        (("nesterov", True), ("crop_scale", 0.5))),
    # Simonyan & Zisserman 2015, 3.1: the rate fell three times in 74 epochs, whenever the accuracy stood still.
    "vgg": Preset("sgd", 0.01, 256, 74, 0.9, 5e-4, "step", 20, 0.1, 0, 0, "flip", 0, 0, 0, 0, _CENTRE),
    # Szegedy et al. 2015, 6 and 7: "decreasing the learning rate by 4% every 8 epochs", patches of 8 to 100 % of the
    # area, averaged weights. It gives neither rate, batch size nor length; those are of BVLC's published solver.
    "googlenet": Preset("sgd", 0.01, 32, 60, 0.9, 2e-4, "step", 8, 0.96, 0, 0, "flip", 0, 0, 0, 0.9999, _CENTRE),
    # He et al. 2016, 3.4: 60·10⁴ steps of 256, divided by 10 when the error stands still. torchvision: every 30 epochs.
    "resnet": Preset("sgd", 0.1, 256, 90, 0.9, 1e-4, "step", 30, 0.1, 0, 0, "flip", 0, 0, 0, 0, _CENTRE),
    # Huang et al. 2017, 4.2.
    "densenet": Preset("sgd", 0.1, 256, 90, 0.9, 1e-4, "step", 30, 0.1, 0, 0, "flip", 0, 0, 0, 0,
        (("nesterov", True), *_CENTRE)),
    # Sandler et al. 2018, 6.1: RMSProp, 16 workers of 96; lengths from torchvision's reference.
    "mobilenetv2": Preset("rmsprop", 0.045, 1536, 300, 0.9, 4e-5, "step", 1, 0.98, 0, 0, "flip", 0, 0, 0, 0, _CENTRE),
    # Tan & Le 2019, 5.2: RMSProp, 0.256 falling by 0.97 every 2.4 epochs; batches of 4096 and averaging from its code.
    "efficientnet": Preset("rmsprop", 0.256, 4096, 350, 0.9, 1e-5, "step", 2.4, 0.97, 5, 0.1, "rand", 0, 0, 0, 0.9999,
        _CENTRE),
    # Tan & Le 2021, 4.1 and Table 6: size 128 to 300, RandAugment 5 to 15, dropout 0.1 to 0.3, in four steps.
    "efficientnetv2": Preset("rmsprop", 0.256, 4096, 350, 0.9, 1e-5, "step", 2.4, 0.97, 5, 0.1, "rand", 0, 0, 0, 0.9999,
        (*_GROWING, *_CENTRE)),
    # torchvision's reference training, weights IMAGENET1K_V1 of ResNet.
    "torchvision-v1": Preset("sgd", 0.1, 256, 90, 0.9, 1e-4, "step", 30, 0.1, 0, 0, "flip", 0, 0, 0, 0, _CENTRE),
    # torchvision's "new recipe", weights IMAGENET1K_V2: pytorch.org/blog/how-to-train-state-of-the-art-models
    # It trains at 176 pixels and tests at 224; here both are the size of the weights, or `image_size`.
    "torchvision-v2": Preset("sgd", 0.5, 1024, 600, 0.9, 2e-5, "cosine", 30, 0.1, 5, 0.1, "trivial", 0.2, 1, 0.1,
        0.99998, (*_NORM_FREE, *_CENTRE)),
}
# fmt: on
