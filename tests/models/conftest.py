"""Weights of a small module, in memory and in a file."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch
from small_module import Small
from torch import Tensor


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return Small().state_dict()


@pytest.fixture
def saved(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save(weights, path)
    return path
