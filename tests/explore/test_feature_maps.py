"""Which maps are on the page, and how far their bytes are off."""

import base64
import weakref
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vertebra.errors import UsageError
from vertebra.explore import exploration
from vertebra.explore.document import observation_notes
from vertebra.explore.encoding import quantised
from vertebra.explore.feature_maps import fit_maps, quantise_maps, wanted_maps
from vertebra.explore.observation import Observation, build_structure
from vertebra.explore.options import Channels, Options
from vertebra.explore.photo import Photo
from vertebra.explore.strongest import strongest_channels
from vertebra.explore.subject import load_subject
from vertebra.introspect import operation_values
from vertebra.preprocessing import Preprocessing

SIDE = 16


class Net(nn.Module):
    """Two stages; the first has the output of its last layer."""

    def __init__(self, *, divide: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1)))
        self.second = nn.Sequential(nn.Conv2d(12, 6, 3, 2, 1, bias=False), nn.ReLU6())
        self.head, self.divide = nn.Linear(6, 1), divide

    def forward(self, x):
        x = self.first(x)
        x = self.second(x / 0 if self.divide else x)
        return self.head(x.mean((2, 3)).nan_to_num(0, 0, 0))


def observe(network):
    torch.manual_seed(0)
    network = network.eval()
    structure = build_structure(load_subject(network, Preprocessing(SIDE, resize=SIDE)))
    image = torch.randn(1, 3, SIDE, SIDE)
    photo = Photo("noise", None, None, structure.subject.preprocessing)
    return Observation(structure, photo, operation_values(structure.subject.network, structure.graph, image))


@pytest.fixture(scope="module")
def observation():
    return observe(Net())


def decoded(maps):
    steps = np.frombuffer(zlib.decompress(base64.b64decode(maps["data"])), np.uint8)
    steps = steps.reshape(len(maps["channels"]), maps["height"], maps["width"])
    low, high = (np.array(maps[end])[:, None, None] for end in ("low", "high"))
    return low + steps / 255 * (high - low)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_values_are_within_half_a_step(scale):
    values = scale * torch.randn(1, 4, 5, 7)
    found = quantise_maps(values, None, [2, 0]).to_dict(2)
    expected = values[0, [2, 0]].double().numpy()
    step = (np.array(found["high"]) - found["low"])[:, None, None] / 255
    assert (abs(decoded(found) - expected) <= 0.5001 * step + 1e-6 * abs(expected).max()).all()
    assert found["contributions"] is None


def test_constant_maps_and_those_of_no_numbers():
    values = torch.full((1, 4, 2, 2), 0.1)
    values[0, 1:, 0, 0] = torch.tensor([torch.nan, torch.inf, 0.1 + 1e-8])
    found = quantise_maps(values, values, [0, 1, 2, 3]).to_dict(4)
    assert found["low"][0] == found["high"][0] == 0.1 and found["low"][1] == 0
    assert found["high"][2] == pytest.approx(torch.finfo(torch.float32).max)
    assert np.allclose(decoded(found)[[0, 3]], 0.1)
    assert quantised(torch.tensor([0.0, 0.0]), 0.0, 0.0).tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_channels_are_a_stream_of_their_own(count):
    values = torch.randn(1, 6, 9, 7)
    values[0, 4] = 3.0  # a channel without a range
    channels = [5, 0, 3, 4, 1]
    maps = quantise_maps(values, values, channels)
    found = maps.to_dict(count)
    assert found["channels"] == channels[:count] and len(found["contributions"]) == count
    assert np.allclose(decoded(found), values[0, channels[:count]], atol=0.02)  # zlib checks the sum of the bytes
    assert len(found["data"]) <= maps.bytes(count) - 48 * count <= len(found["data"]) + 120


@pytest.mark.filterwarnings("ignore::vertebra.errors.VertebraWarning")
def test_the_values_of_one_photo_are_freed_before_those_of_the_next(monkeypatch, tmp_path):
    before, run = [], exploration._observe

    def counted(structure, source):
        assert [found() for found in before] == [None] * len(before)
        observation = run(structure, source)
        before.append(weakref.ref(observation.values.result))
        return observation

    monkeypatch.setattr(exploration, "_observe", counted)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / name)
    found = exploration.explore(tmp_path / "a.png", Net(), other_photo=tmp_path / "b.png")
    assert len(before) == len(found.document["views"]) == 2


def test_channels_by_what_they_contribute():
    scores = torch.tensor([[1.0, 1.0], [5.0, -4.0], [torch.nan, 9.0], [1.5, 1.5]])
    assert strongest_channels(scores) == [3, 0, 1, 2]
    assert strongest_channels(scores, 1) == [3]


def names(notes):
    return [(note.key, note.values.get("parts")) for note in notes]


def test_layers_give_way_first_and_what_is_asked_for_stays(observation):
    everything = fit_maps(wanted_maps(observation, Channels()), 10**6)
    assert everything.notes == []
    assert everything.maps["stage/first"]["channels"] == everything.maps["layer/first.0.2"]["channels"]
    tight = fit_maps(wanted_maps(observation, Channels()), everything.size // 2)
    assert tight.notes and tight.size <= everything.size // 2
    nothing = fit_maps(wanted_maps(observation, Channels.of_argument({"first": [7, 3], "second": 5})), 0)
    assert nothing.maps["stage/first"]["channels"] == [7, 3] and nothing.maps["stage/second"]["channels"] == [5]
    assert nothing.size > 0  # which the page says
    assert {key for key, _ in names(nothing.notes)} == {"note.maps.none.layer"}


def test_two_names_of_one_output_are_both_heard(observation):
    asked = Channels.of_argument(["stage/first:7", " layer/first.0.2 : 3,7"])
    assert fit_maps(wanted_maps(observation, asked), 0).maps["layer/first.0.2"]["channels"] == [7, 3]


@pytest.mark.parametrize("given", [None, 5, "5", ["5"], {}, {"first": 2}, {"first": (2, 3)}, ["first:2"], "first:2"])
def test_channels_that_can_be_asked_for(given, observation):
    channels = Channels.of_argument(given)
    Options(channels=channels).check([observation.structure])
    assert (channels.count == 5) == (given in (5, "5", ["5"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "channels is 0"),
        (1.5, "channels is 1.5"),
        ("5,6", "channels is '5,6'"),
        ({"first": -1}, "channels is"),
        ({"first": []}, "channels is"),
        ({"first": 12}, "first has 12 channels, 0 to 11; there is no 12"),
        ({"frst": 1}, "has no part 'frst'. Did you mean 'first'"),
        ({"head": 0}, "head has no maps: its output is 1"),
        (":5", "channels is ':5'"),
    ],
)
def test_channels_that_cannot(given, message, observation):
    with pytest.raises(UsageError, match=message):
        Options(channels=Channels.of_argument(given)).check([observation.structure])


def test_values_that_are_no_numbers_are_told():
    broken = observe(Net(divide=True))
    (note,) = observation_notes(broken)
    assert note.key == "note.not_finite" and "second.0" in note.values["layers"]
    assert "note.one_class" in [note.key for note in broken.ending.notes]
    assert fit_maps(wanted_maps(broken, Channels()), 10**6).maps["stage/second"]["low"]


def test_finite_values_need_no_note(observation):
    assert observation_notes(observation) == []
