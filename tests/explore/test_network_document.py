"""What the page is told of a network without a photo."""

import pytest
from torch import Tensor, nn

from vertebra.explore.document import network, structure_notes
from vertebra.explore.observation import build_structure, time_parts
from vertebra.explore.subject import load_subject
from vertebra.models import create_model
from vertebra.strict_json import dumps


class WithAuxiliaryHead(nn.Module):
    """A head that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(3, 4, 3, stride=8), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)
        self.aux = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x)).flatten(1))


def test_another_kind_of_network_is_said_and_what_does_not_run_is_listed() -> None:
    structure = build_structure(load_subject(WithAuxiliaryHead()))
    generic, unused = structure_notes(structure)
    assert generic.key == "note.generic"
    assert unused.key == "note.unused"
    assert unused.values == {"name": "WithAuxiliaryHead", "parameters": "10", "modules": ["aux"]}
    told = network(structure)
    top = [part for part in told["parts"] if part["parent"] is None]
    for cost in ("parameters", "macs", "bytes"):
        within = sum(part[cost] for part in top)
        assert told[cost] == within + (10 if cost == "parameters" else 0)
    assert told["ms"] is None
    dumps(told)


def test_the_times_of_the_parts_add_up() -> None:
    structure = build_structure(load_subject(WithAuxiliaryHead()))
    assert time_parts(structure, seconds=0.01) == []
    told = network(structure)
    parts = {part["id"]: part for part in told["parts"]}
    assert told["ms"] > 0
    assert told["ms"] == pytest.approx(sum(part["ms"] for part in parts.values() if part["parent"] is None))
    for part in parts.values():
        if part["children"]:
            assert part["ms"] == pytest.approx(sum(parts[child]["ms"] for child in part["children"]))


def test_networks_of_the_package_need_no_note() -> None:
    structure = build_structure(load_subject(create_model("resnet18", num_classes=5)))
    assert structure_notes(structure) == []
