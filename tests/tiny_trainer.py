"""A network of a few hundred weights and its trainer, on images of 8 pixels: for tests of training's parts."""

import hashlib

import numpy as np
import torch
from torch import nn

from vertebra.card import Preprocessing
from vertebra.models.convnet import ConvNet
from vertebra.train import Settings
from vertebra.train.distributed import Distributed
from vertebra.train.fit import Trainer
from vertebra.train.run_checkpoint import TrainingState, save, save_best
from vertebra.train.validation import Split

ALONE = Distributed(0, 1, 1, torch.device("cpu"))
SIZE = 8


class Tiny(ConvNet):
    """Two stages; with batch norm, the second has one value a channel of an image of 8 pixels."""

    head_name, stem_path = "fc", "one.0"

    def __init__(self, normed=False):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        norm = nn.BatchNorm2d(8) if normed else nn.Identity()
        self.two = nn.Sequential(nn.Conv2d(4, 8, 4, 4), norm, nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward_maps(self, x, run):
        yield "one", (x := run(x, self.one))
        yield "two", (x := run(x, self.two))


def trainer_of(
    photos,
    folder,
    *,
    count=9,
    classes=3,
    kind=Tiny,
    normed=False,
    distributed=ALONE,
    progress=lambda *what: None,
    **options,
):
    own = {name: options.pop(name) for name in ("now",) if name in options}
    values = {"batch_size": 3, "epochs": 2, "lr": 0.05, "workers": 0, "augment": "none", "image_size": SIZE} | options
    settings = Settings("x", method="scratch", **values)
    torch.manual_seed(0)
    network = kind(normed)
    if folder is not None and not folder.exists():
        folder.mkdir()
        save_best(folder, 0, network.state_dict(), ALONE)
        save(folder, TrainingState(), network, None, {}, ALONE)
    parts = [
        Split(paths, np.arange(len(paths)) % classes, [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
        for paths in (photos[:count], photos[30:])
    ]
    return Trainer(settings, network, Preprocessing(SIZE, SIZE), *parts, folder, distributed, progress, **own)
