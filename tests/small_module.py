"""A module of two layers and a norm, for tests of weights and their files."""

import torch
from torch import Tensor, nn

from vertebra.models.state_dict import meta_build


class Small(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, classes)
        nn.init.kaiming_normal_(self.body[0].weight, mode="fan_out")
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        nn.init.ones_(self.body[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x).mean((2, 3))
        out: Tensor = self.head(features)
        return out


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name


def on_meta(classes: int = 4) -> Small:
    with meta_build():
        return Small(classes)
