"""Values worked out from the operands that the page holds are the network's own."""

import base64
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from vertebra.card import Preprocessing
from vertebra.errors import UsageError
from vertebra.explore import explore
from vertebra.explore.observation import Observation, build_structure
from vertebra.explore.options import Options
from vertebra.explore.strongest import strongest_cell
from vertebra.explore.subject import Subject
from vertebra.explore.weighted_layers import asked_cell
from vertebra.explore.worked_values import worked_values
from vertebra.introspect import operation_values
from vertebra.models import create_model
from vertebra.models.layers import Conv2dSame


def structure_of(network, side=16):
    return build_structure(Subject("network", network.eval(), Preprocessing(side), (), "", True))


def observe(network, side=16):
    structure = structure_of(network, side)
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Observation(structure, None, operation_values(network, structure.graph, image))


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<f4").astype(float)


def kept_channels(value):
    return np.flatnonzero(np.unpackbits(np.frombuffer(base64.b64decode(value["kept"]), np.uint8), bitorder="little"))


ACTIVATIONS = {
    "relu": lambda v, step: max(v, 0.0),
    "add": lambda v, step: v + step["other"],
    "multiply": lambda v, step: v * step["other"],
    "concat": lambda v, step: v,
    "max_pool": lambda v, step: v,
    "clip": lambda v, step: min(
        max(v, -math.inf if step["low"] is None else step["low"]), math.inf if step["high"] is None else step["high"]
    ),
    "sigmoid": lambda v, step: 1 / (1 + math.exp(-v)),
    "silu": lambda v, step: v / (1 + math.exp(-v)),
    "tanh": lambda v, step: math.tanh(v),
    "hardsigmoid": lambda v, step: min(max(v + 3, 0), 6) / 6,
    "hardswish": lambda v, step: v * min(max(v + 3, 0), 6) / 6,
    "leaky_relu": lambda v, step: v if v > 0 else v * step["slope"],
}


def work_out(value):
    """The number after each step, in float64, from nothing but what the page holds."""
    terms = numbers(value["operands"]) * numbers(value["weights"])
    number = float(terms.sum()) + (value["left_out"]["sum"] if value["left_out"] else 0) + (value["bias"] or 0)
    found = [number]
    for step in value["steps"][1:]:
        if step["op"] == "batch_norm":
            scale = (1 if step["weight"] is None else step["weight"]) / math.sqrt(step["var"] + step["eps"])
            number = (number - step["mean"]) * scale + (step["bias"] or 0)
        else:
            number = ACTIVATIONS[step["op"]](number, step)
        found.append(number)
    return found


def of_layers(observation, asked=()):
    """Without those of stages."""
    return {
        part: values
        for part, values in worked_values(observation, Options(values=tuple(asked))).items()
        if part.startswith("layer/")
    }


def check(observation, asked=()):
    """All values are the network's own; how many there are of each kind of layer, and of each step."""
    rows, kinds = observation.structure.anatomy.rows, Counter()
    for part, values in worked_values(observation, Options(values=tuple(asked))).items():
        for value in values:
            found, own = work_out(value), [step["value"] for step in value["steps"]]
            assert found == pytest.approx(own, rel=1e-4, abs=1e-5), (part, value["layer"])
            output = observation.values.outputs[value["steps"][-1]["row"]].detach()
            cell = value.get("output", value["cell"])
            assert own[-1] == float(output[0, *cell] if output.ndim == 4 else output[0, cell[0]])
            if "output" in value:
                kinds["stages"] += 1
                continue
            kinds[str(rows[value["steps"][0]["row"]].kind)] += 1
            kinds.update(step["op"] for step in value["steps"])
    return kinds


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        pytest.param("vgg11_bn", 32, {"dense conv": 8, "matmul": 3, "relu": 10}, marks=pytest.mark.slow),
        ("googlenet", 64, {"1×1 conv": 37, "dense conv": 20, "matmul": 1, "batch_norm": 57, "relu": 57}),
        ("resnet18", 32, {"1×1 conv": 3, "dense conv": 17, "matmul": 1, "batch_norm": 20, "relu": 9}),
        ("resnext50_32x4d", 32, {"grouped conv": 16, "1×1 conv": 36, "dense conv": 1, "matmul": 1, "relu": 33}),
        ("densenet121", 32, {"1×1 conv": 61, "dense conv": 59, "matmul": 1, "batch_norm": 59, "relu": 59}),
        ("mobilenet_v2", 32, {"depthwise conv": 17, "1×1 conv": 34, "dense conv": 1, "clip": 35, "batch_norm": 52}),
        ("efficientnet_b0", 32, {"depthwise conv": 16, "1×1 conv": 64, "sigmoid": 16, "silu": 49, "batch_norm": 49}),
        ("efficientnet_lite0", 32, {"depthwise conv": 16, "1×1 conv": 32, "clip": 33, "batch_norm": 49, "matmul": 1}),
        pytest.param(
            "efficientnet_v2_s",
            33,
            {"dense conv": 11, "depthwise conv": 30, "silu": 102, "sigmoid": 30},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_kind_of_layer_in_every_family(name, side, expected):
    torch.manual_seed(0)
    network = create_model(name, num_classes=5)
    for module in network.modules():  # statistics as after training: not zero and one
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    kinds = check(observe(network, side))
    assert {kind: kinds[kind] for kind in expected} == expected


def test_a_linear_layer_of_as_many_inputs_as_vgg(tiny_network):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 512, 1), nn.ReLU(), nn.Flatten(), nn.Linear(25_088, 5))
    observation = observe(network, 7)
    check(observation)
    value = next(value for (value,) in of_layers(observation).values() if value["kind"] == "linear")
    assert value["flattened"] == [512, 7, 7] and 1 in observation.structure.parts[value["reads"]].rows
    assert len(numbers(value["weights"])) == 4_608
    assert value["left_out"]["terms"] == value["left_out"]["channels"] == 25_088 - 4_608
    assert check(observe(tiny_network("vgg", batch_norm=True), 32))["stages"] == 5
    assert check(observe(tiny_network("efficientnet", kind="v2"), 40))["dense conv"] > 2  # fused


class Kinds(nn.Module):
    """Layers that the families do not have."""

    def __init__(self):
        super().__init__()
        self.same = Conv2dSame(3, 8, 3, stride=2)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.plain = nn.BatchNorm2d(8, affine=False)
        self.by_batch = nn.Conv2d(8, 8, (1, 3), padding="same")
        self.own = nn.BatchNorm2d(8, track_running_stats=False)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.slopes = nn.PReLU(8)
        self.even = nn.Conv2d(8, 8, 4, stride=3, padding=1)
        self.flat = nn.Linear(8 * 3 * 3, 6, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = F.hardswish(self.same(x))
        x = self.plain(self.dilated(x))
        x = torch.tanh(self.own(self.by_batch(x)))
        x = self.slopes(self.reflected(x))
        x = F.leaky_relu(F.hardsigmoid(self.even(x)), 0.2)
        return self.head(self.flat(x.flatten(1)).clamp(min=-0.5))


@pytest.fixture
def kinds():
    torch.manual_seed(1)
    return Kinds()


def test_kinds_of_layers_that_the_families_do_not_have(kinds):
    observation = observe(kinds, 20)
    # Corners, where the kernel hangs over the edge.
    asked = [f"{name},{c},{y},{x}" for name, c, y, x in [("same", 7, 9, 9), ("dilated", 5, 0, 9), ("even", 0, 0, 2)]]
    found = check(observation, [*asked, "flat,3"])
    assert found["clip"] == 2 and found["matmul"] == 3 and found["hardswish"] == 2
    assert found["tanh"] == found["leaky_relu"] - 2 == 1 and found["hardsigmoid"] == 2
    values = {value["layer"]: value for part in of_layers(observation, asked).values() for value in part[:1]}
    assert values["same"]["corner"] == [18, 18] and values["same"]["size"] == [20, 20]  # one pixel right and below
    assert values["same"]["reads"] == "input"
    assert numbers(values["same"]["operands"]).reshape(3, 3, 3)[:, 2].tolist() == [[0.0] * 3] * 3
    assert values["dilated"]["first"] == 4 and values["dilated"]["channels"] == 4
    assert values["dilated"]["corner"] == [-2, 7] and values["dilated"]["dilation"] == [2, 2]
    assert values["reflected"]["size"] == [12, 12]  # of the map that is read, its reflected edge included
    assert values["flat"]["flattened"] == [8, 3, 3]
    norms = {step["from_batch"] for value in values.values() for step in value["steps"] if step["op"] == "batch_norm"}
    assert norms == {True, False}


def test_a_wrong_operand_is_noticed(kinds):
    observation = observe(kinds, 20)
    value = next(iter(of_layers(observation).values()))[0]
    weights = numbers(value["weights"]).astype("<f4")
    weights[0] += 1
    value["weights"] = base64.b64encode(weights.tobytes()).decode()
    assert work_out(value) != pytest.approx([step["value"] for step in value["steps"]], rel=1e-4, abs=1e-4)


def test_the_value_that_contributes_most_is_taken():
    contributions = torch.zeros(3, 2, 2)
    contributions[1] = torch.tensor([[1.0, 4.0], [2.0, -1.0]])
    contributions[2, 0, 0] = 5
    assert strongest_cell(contributions) == (1, 0, 1)  # 6 in all, although channel 2 has the highest one
    assert strongest_cell(torch.full((3, 2, 2), torch.nan)) == (0, 0, 0)
    contributions[1, 0, 1] = torch.nan
    assert strongest_cell(contributions) == (2, 0, 0)
    assert strongest_cell(torch.tensor([1.0, 3.0, 2.0, 3.0])) == (1,)


def test_the_default_is_of_the_layers_last_operation(tiny_network):
    observation = observe(tiny_network("mobilenetv2"), 32)
    value = next(iter(of_layers(observation).values()))[0]
    assert [step["op"] for step in value["steps"]] == ["sum", "batch_norm", "clip"]
    contributions = observation.contributions[value["steps"][-1]["row"]][0]
    channel, *position = value["cell"]
    assert contributions.sum((1, 2)).argmax() == channel
    assert contributions[channel].max() == contributions[channel, *position] and not value["asked"]


@pytest.mark.parametrize(
    ("family", "steps"),
    [
        ("resnet", ["sum", "batch_norm", "add", "relu"]),
        ("googlenet", ["sum", "batch_norm", "relu", "concat"]),
        ("vgg", ["sum", "relu", "max_pool"]),
        ("densenet", ["sum", "concat"]),
        ("efficientnet", ["sum", "batch_norm", "silu"]),
    ],
)
def test_of_a_stage_the_value_is_followed_to_the_layer_that_made_it(family, steps, tiny_network):
    observation = observe(tiny_network(family), 64)
    parts, found = observation.structure.parts, worked_values(observation, Options())
    of_stages = {part: value for part, (value, *_) in found.items() if part.startswith("stage/") and "output" in value}
    assert steps in [[step["op"] for step in value["steps"]] for value in of_stages.values()]
    for part, value in of_stages.items():
        assert work_out(value) == pytest.approx([step["value"] for step in value["steps"]], rel=1e-4, abs=1e-4)
        output = observation.output(parts[part])
        assert value["steps"][-1]["value"] == float(output[0, *value["output"]])
        contributions = observation.contributions[parts[part].row][0]
        assert contributions.sum((1, 2)).argmax() == value["output"][0]
        assert value["made_in"] in found and parts[value["made_in"]].level == "layer"


def test_what_is_left_out_is_counted_and_summed(monkeypatch, tiny_network):
    observation = observe(tiny_network("resnet"), 32)
    whole = of_layers(observation)
    monkeypatch.setattr("vertebra.explore.worked_values.CAPS", (40, 20))
    cut = of_layers(observation)
    assert not any(value["left_out"] for values in whole.values() for value in values)
    assert any(value["left_out"] for values in cut.values() for value in values)
    for part, (value,) in cut.items():
        operands = numbers(value["operands"])
        size = math.prod(value["kernel"])
        assert len(operands) <= max(40, size) and len(operands) % size == 0
        if value["left_out"]:
            assert value["left_out"]["channels"] == value["channels"] - len(kept_channels(value))
            assert value["left_out"]["terms"] == value["left_out"]["channels"] * size
            kept = kept_channels(value)
            before = numbers(whole[part][0]["operands"]).reshape(-1, size)
            assert np.array_equal(before[kept].ravel(), operands)
        assert work_out(value) == pytest.approx(work_out(whole[part][0]), rel=1e-9, abs=1e-9)
    monkeypatch.setattr("vertebra.explore.worked_values.BYTES", 1)  # nothing fits, so the least
    smallest = of_layers(observation)
    assert all(len(numbers(v["operands"])) <= max(20, math.prod(v["kernel"])) for (v,) in smallest.values())


def test_weights_that_are_not_finite():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = torch.nan
        network[0].weight[1, 0, 0, 0] = torch.inf
    values = of_layers(observe(network))
    assert len(values) == 2
    observation = observe(network)
    for text, expected in (("0,0,1,1", "NaN"), ("0,1,1,1", ("Infinity", "-Infinity"))):
        (step, *_) = next(iter(of_layers(observation, [text]).values()))[0]["steps"]
        assert step["value"] in expected


class Uneven(nn.Module):
    """Convolutions of which no value is worked out, beside one of which it is."""

    def __init__(self):
        super().__init__()
        self.spread = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.line = nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(4, 3)
        self.turn = nn.Parameter(torch.randn(3, 3, dtype=torch.complex64))

    def forward(self, x):
        x = self.line(self.spread(x).flatten(2)).mean(2)
        x = self.head(x)
        return (x.to(torch.complex64) @ self.turn).abs()


def test_layers_of_which_no_value_is_worked_out():
    torch.manual_seed(0)
    observation = observe(Uneven())
    found = {value.get("refused", value.get("layer")) for values in of_layers(observation).values() for value in values}
    assert found == {"worked.refused.transposed", "worked.refused.dimensions", "head", "worked.refused.dtype"}
    with pytest.raises(UsageError, match=r"'spread' is a conv_transpose2d. No value of a transposed"):
        asked_cell(observation.structure, "spread,0,0,0")


def test_networks_without_layers_with_weights():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    observation = observe(network)
    assert of_layers(observation) == {}
    with pytest.raises(UsageError, match="network has no convolution and no linear layer"):
        asked_cell(observation.structure, "0,1,1,1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sam,0,0,0", "network has no layer 'sam'. Did you mean 'same'"),
        ("", "network has no layer ''. It has 'same', 'dilated', 'by_batch'"),
        (",1,1,1", "network has no layer ''"),
        ("plain,0,0,0", "'plain' is a batch_norm; values are worked out of convolutions and linear layers, such as"),
        ("same,8,0,0", "channel 8 of 'same' does not exist; it has 0 to 7"),
        ("same,0,10,0", "row 10 of 'same' does not exist; it has 0 to 9"),
        ("same,0,0,-1", "column -1 of 'same' does not exist; it has 0 to 9"),
        ("same,0,0", "2 numbers after the layer; a value of a convolution needs 3 .channel, row, column."),
        ("same", "0 numbers after the layer; .* Give LAYER,C,Y,X, such as same,4,5,5"),
        ("same,a,0,0", "'a' is no whole number. Give LAYER,C,Y,X, such as same,4,5,5"),
        ("same,1.5,0,0", "'1.5' is no whole number"),
        ("same,nan,0,0", "'nan' is no whole number"),
        ("head,1,0,0", "3 numbers after the layer; a value of a linear layer needs 1 .channel.. Give LAYER,C, such as"),
    ],
)
def test_values_that_do_not_exist(text, message, uneven_structure):
    with pytest.raises(UsageError, match=message):
        asked_cell(uneven_structure, text)


@pytest.fixture(scope="module")
def uneven_structure():
    return structure_of(Kinds(), 20)


def test_values_that_are_asked_for(uneven_structure, tiny_network):
    same = 1  # the row after that of its padding
    options = Options(values=("same,1,2,3", " same , 1 , 2 , 3 ", "layer/same,0,0,9", "head,4"))
    found = options.cells(uneven_structure)
    assert found[same] == [(1, 2, 3), (0, 0, 9)] and sorted(map(len, found.values())) == [1, 2]
    resnet = structure_of(tiny_network("resnet"), 32)
    with pytest.raises(UsageError, match=r"'layer1' has 2 layers with weights. Name one: layer1.0.conv1, layer1.0.con"):
        asked_cell(resnet, "layer1,0,0,0")
    assert asked_cell(resnet, "layer2.0.downsample,0,0,0")[1] == (0, 0, 0)
    # Of two networks, one has to have it.
    Options(values=("same,1,2,3", "layer1.0.conv1,0,0,0")).check([uneven_structure, resnet])
    with pytest.raises(UsageError, match="no layer 'layer9'"):
        Options(values=("same,1,2,3", "layer9,0,0,0")).check([uneven_structure, resnet])


def test_a_value_that_only_the_other_network_has_is_passed_over(kinds):
    values = of_layers(observe(kinds, 20), ["layer1.0.conv1,0,0,0", "head,4", "head,4"])
    (asked, strongest) = next(values for values in values.values() if values[0]["layer"] == "head")
    assert asked["cell"] == [4] and asked["asked"] and not strongest["asked"]


class Twice(nn.Module):
    """One convolution that runs two times."""

    input_size = 8

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.conv(self.conv(x).relu()).mean((2, 3)))


def test_a_layer_that_runs_twice_is_named_by_its_parts():
    structure = structure_of(Twice(), 8)
    with pytest.raises(UsageError, match="Name one: layer/conv, layer/conv#2"):
        asked_cell(structure, "conv,0,0,0")
    assert [asked_cell(structure, f"{name},0,0,0")[0] for name in ("layer/conv", "layer/conv#2")] == [0, 2]


def test_one_value_may_be_given_as_it_is(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    with pytest.raises(UsageError, match="value 'head,9': channel 9 of 'head' does not exist"):
        explore(tmp_path / "photo.png", Twice(), values="head,9")
