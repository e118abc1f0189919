"""What each of several processes does in `test_several`: train a network without statistics of the batch."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vertebra.card import Preprocessing
from vertebra.models.convnet import ConvNet
from vertebra.train import TrainError
from vertebra.train.distributed import init_distributed
from vertebra.train.fit import Trainer
from vertebra.train.run_checkpoint import TrainingState, save, save_best
from vertebra.train.train_settings import Settings
from vertebra.train.validation import Split


class Plain(ConvNet):
    """Without batch norm two halves of a batch are as good as the whole."""

    head_name, stem_path = "fc", "one.0"

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 3)

    def forward_maps(self, x, run):
        yield "one", (x := run(x, self.one))
        yield "two", (x := run(x, self.two))


def main(data, folder):
    distributed = init_distributed()
    settings = Settings(
        str(data), method="scratch", batch_size=10, epochs=3, lr=0.1, workers=0, ema=0.9, accumulate=4,
        image_size=32, checkpoint_seconds=0,
    )  # fmt: skip
    torch.manual_seed(0)
    network = Plain()
    if distributed.is_first:
        Path(folder).mkdir()
        save_best(Path(folder), 0, network.state_dict(), current_alone(distributed))
        save(Path(folder), TrainingState(), network, None, {}, current_alone(distributed))
    distributed.barrier()
    paths = sorted(Path(data).glob("*/*.png"))
    labels = np.array([["circle", "cross", "stripes"].index(path.parent.name) for path in paths])
    val = Split(paths[::5], labels[::5])
    trainer = Trainer(
        settings,
        network,
        Preprocessing(32, 32),
        Split(paths, labels),
        val,
        Path(folder),
        distributed,
        lambda *what: None,
    )
    position = trainer.fit()
    logits = trainer.logits(val, "measuring")
    if distributed.is_first:
        np.savez(Path(folder) / "found.npz", logits=logits, score=position.best_score, step=position.step)
    # Each process tells of a photo that one of them cannot read.
    trainer.val = Split([*val.paths[:-1], Path("gone.png")], val.labels)
    try:
        trainer.logits(trainer.val, "measuring")
    except TrainError as error:
        Path(folder, f"gone-{distributed.rank}.txt").write_text(str(error))
    lost = Path(folder) / "lost"
    if distributed.is_first:
        lost.mkdir()
        save_best(lost, 0, network.state_dict(), current_alone(distributed))
        save(lost, TrainingState(), network, None, {}, current_alone(distributed))
    distributed.barrier()
    trainer.folder, trainer.train = lost, Split([Path("away.png"), *paths[1:]], labels)
    try:
        trainer.fit()
    except TrainError as error:
        Path(folder, f"away-{distributed.rank}.txt").write_text(str(error))


def current_alone(distributed):
    from dataclasses import replace

    return replace(distributed, size=1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
