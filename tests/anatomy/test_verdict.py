"""The paragraph says what the rows say."""

import pytest
import torch
from torch import nn

import vertebra


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("vgg16", ["86 % of the 138 M parameters are in 2 of 16 layers: classifier.0 and classifier.3.", "15.5 GMACs"]),
        ("vgg11", ["Receptive field 134 × 134 of the 224 × 224 input."]),
        ("densenet121", ["the largest, classifier, holds 13 %", "copies (concatenation, padding) 18 %"]),
        ("mobilenet_v2", ["1×1 convolutions account for 89 %", "depthwise convolutions 14 %, for 7 % of the MACs"]),
        (
            "efficientnet_b0",
            ["larger than the 224 × 224 input; global from features.1.0.block.1.fc1 on"],
        ),
    ],
)
def test_sentences(name: str, sentences: list[str]) -> None:
    verdict = vertebra.anatomy(name).verdict()
    assert all(sentence in verdict for sentence in sentences), verdict


def test_shares_are_those_of_the_rows() -> None:
    anatomy = vertebra.anatomy("vgg16")
    layers = {row.name: row.parameters for row in anatomy.rows if row.parameters}
    share = (layers["classifier.0"] + layers["classifier.3"]) / anatomy.parameters
    assert f"{share:.0%}".replace("%", " %") in anatomy.verdict()


def test_without_weights() -> None:
    verdict = vertebra.anatomy(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), input_size=(3, 8, 8)).verdict()
    assert verdict.startswith("There are no weights.")
    assert "Peak activation memory is" in verdict and ", at 0." in verdict


def test_what_is_not_used_in_inference_is_named() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Conv2d(3, 8, 3), nn.Linear(100, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.used(x)
            return out

    assert "are not used in inference (spare)" in vertebra.anatomy(Spare(), input_size=(3, 16, 16)).verdict()
