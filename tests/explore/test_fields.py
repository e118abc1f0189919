"""Receptive fields on the page: geometry of all parts with maps, and the effective field of a stage."""

import base64
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from vertebra.explore.effective_fields import effective_fields, encode_gradient, input_gradient, side_holding
from vertebra.explore.fields import fields
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.photo import Photo
from vertebra.explore.subject import load_subject
from vertebra.graph.receptive_field import ReceptiveField
from vertebra.preprocessing import Preprocessing


def observation_of(network, side=64):
    way = Preprocessing(size=side, resize=side)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return observe(build_structure(load_subject(network, way)), Photo("noise", None, pixels, way))


def unpacked(field):
    values = np.frombuffer(zlib.decompress(base64.b64decode(field["data"])), np.uint8)
    return values.reshape(field["height"], field["width"])


@pytest.fixture(scope="module")
def resnet(tiny_network):
    return observation_of(tiny_network("resnet"))


def test_every_part_with_maps_has_a_field(resnet):
    found = fields(resnet, Options())
    parts = resnet.structure.parts
    assert set(found) == {identity for identity, part in parts.items() if len(part.shape) == 3}
    for identity, field in found.items():
        row = resnet.structure.anatomy.rows[parts[identity].row]
        assert (tuple(field["size"]), field["sees_all"]) == (row.receptive_field, row.sees_all), identity


def test_the_effective_field_lies_in_the_theoretical_one(resnet):
    theory, found = fields(resnet, Options()), effective_fields(resnet, Options())
    assert "stage/layer1" in found
    for identity, field in found.items():
        box, cell = theory[identity], field["cell"]
        if box["sees_all"]:
            continue
        for side, first in enumerate((field["top"], field["left"])):
            start = box["start"][side] + cell[side] * box["jump"][side]
            last = first + field[("height", "width")[side]]
            assert max(0, start) <= first < last <= start + box["size"][side], identity
        assert 0 < field["side"] <= max(box["size"]), identity
        assert unpacked(field).max() == 255


def test_the_gradient_is_that_of_the_network(resnet):
    values, row = resnet.values, resnet.structure.parts["stage/layer2"].row
    _, _, height, width = values.outputs[row].shape
    gradient = input_gradient(values.outputs[row], values.image, (height // 2, width // 2))
    image = values.image.detach().clone().requires_grad_()
    kept = []
    network = resnet.structure.subject.network
    handle = network.layer2.register_forward_hook(lambda module, args, output: kept.append(output))
    network(image)
    handle.remove()
    kept[0][0, :, height // 2, width // 2].sum().backward()
    assert torch.allclose(gradient, image.grad[0].abs().sum(0), rtol=1e-4, atol=1e-7)


def test_the_side_of_the_square_with_a_share():
    field = ReceptiveField((5, 5), (1, 1), (-2, -2), False)
    gradient = torch.zeros(9, 9)
    gradient[2:7, 2:7] = 1  # 25 pixels around (4, 4): 9 of them in the inner square, 1 in the middle
    assert [side_holding(gradient, field, (4, 4), share) for share in (0.04, 0.05, 0.36, 0.37, 1)] == [1, 3, 3, 5, 5]
    even = ReceptiveField((4, 4), (2, 2), (-1, -1), False)
    gradient = torch.zeros(8, 8)
    gradient[4:6, 4:6] = 1  # the centre lies between four pixels
    assert side_holding(gradient, even, (2, 2), 1) == 2


def test_large_gradients_are_averaged():
    gradient = torch.zeros(8, 8)
    gradient[7, 7], gradient[0, 3] = 2, 9  # with steps of 3 the last row and column are 2 pixels wide
    found = encode_gradient(gradient, most=3)
    assert (found["top"], found["left"], found["step"], found["height"], found["width"]) == (0, 3, 3, 3, 2)
    assert unpacked(found)[0, 0] == 255
    assert unpacked(found)[2, 1] == round(255 / 2)


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 2, 3), nn.Linear(2, 2)
        nn.init.zeros_(self.body.weight)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))


def test_without_a_gradient_there_is_no_effective_field():
    observation = observation_of(Dead(), 16)
    assert effective_fields(observation, Options()) == {}
    assert fields(observation, Options())
