"""Gates, additions, branches, dense blocks, activations and evidence: equal to what hooks on the network find."""

import base64
import io
import json
import zlib
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vertebra.explore.activation_histograms import activation_histograms
from vertebra.explore.channel_gates import channel_gates
from vertebra.explore.class_evidence import class_evidence
from vertebra.explore.concatenated_branches import concatenated_branches
from vertebra.explore.dense_block_sources import dense_block_sources
from vertebra.explore.observation import Observation, build_structure, observe
from vertebra.explore.photo import read_photo
from vertebra.explore.residual_additions import residual_additions
from vertebra.explore.subject import load_subject
from vertebra.explore.vectors import vectors
from vertebra.models import create_model
from vertebra.preprocessing import Preprocessing

SIDE = 64
SECTIONS = (channel_gates, residual_additions, concatenated_branches, dense_block_sources, activation_histograms)


def noise(side=SIDE):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def observed(network, side=SIDE):
    subject = load_subject(network, Preprocessing(crop_size=side, resize_size=side))
    return observe(build_structure(subject), read_photo(noise(side), subject.preprocessing))


@cache
def at_work(name) -> Observation:
    """A network whose batch norms fit its random weights: otherwise values vanish, and all gates are 0.5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model(name, num_classes=5)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            with torch.no_grad():
                network.train()(torch.randn(2, 3, SIDE, SIDE))
    return observed(network)


def recorded(observation, paths, scaled=None):
    """Outputs of modules, before anything writes into them, and the logits; the output at `scaled` times a number."""
    network, found = observation.structure.subject.network, {}
    factor = torch.ones((), requires_grad=True)

    def record(path):
        def hook(module, args, output):
            found[path] = (args[0].detach().clone(), output.detach().clone())
            return output * factor if path == scaled else None

        return hook

    # An activation in place would overwrite what it read before the hook sees it.
    before = {}

    def keep(path):
        return lambda module, args: before.__setitem__(path, args[0].detach().clone())

    modules = dict(network.named_modules())
    handles = [modules[path].register_forward_hook(record(path)) for path in paths]
    handles += [modules[path].register_forward_pre_hook(keep(path)) for path in paths]
    logits = network(observation.values.image.detach())[0]
    for handle in handles:
        handle.remove()
    slope = None if scaled is None else float(torch.autograd.grad(logits[observation.target], factor)[0])
    return {path: (before[path], found[path][1]) for path in paths}, logits.detach(), slope


def flat(section):
    return [entry for entries in section.values() for entry in entries]


def unpack(pictures):
    cells = np.frombuffer(zlib.decompress(base64.b64decode(pictures["data"])), np.uint8)
    shape = (len(pictures["names"]), pictures["height"], pictures["width"])
    return dict(zip(pictures["names"], cells.reshape(shape) / 255 * pictures["high"], strict=True))


def test_gates_are_the_squeeze_excitations_outputs():
    observation = at_work("efficientnet_b0")
    found = channel_gates(observation, None)
    modules = observation.structure.subject.network.named_modules()
    paths = [path for path, _ in modules if path.endswith("scale_activation")]
    values, _, _ = recorded(observation, paths)
    gates = flat(found)
    assert len(gates) == len(paths) == 16
    for gate, path in zip(gates, paths, strict=True):
        expected = values[path][1].flatten()
        assert np.abs(np.array(gate["values"]) - expected.numpy()).max() <= 5.1e-5, path
        assert (gate["low"], gate["high"]) == pytest.approx((float(expected.min()), float(expected.max())), rel=1e-5)
        assert gate["mean"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert gates[3]["high"] - gates[3]["low"] > 0.01  # they do differ
    for part, entries in found.items():
        assert {entry["row"] for entry in entries} <= set(observation.structure.parts[part].rows)


@pytest.mark.parametrize(("block", "shortcut"), [("layer1.1", "layer1.0"), ("layer2.0", "layer2.0.downsample")])
def test_skip_and_branch_of_a_residual_block(block, shortcut):
    observation = at_work("resnet18")
    additions = {entry["name"]: entry for entry in flat(residual_additions(observation, None))}
    assert len(additions) == 8
    found = additions[f"{block}.add"]
    values, _, slope = recorded(observation, [shortcut, f"{block}.bn2"], scaled=f"{block}.bn2")
    skip, branch = values[shortcut][1], values[f"{block}.bn2"][1]
    norms = {"skip": float(skip.norm()), "branch": float(branch.norm()), "sum": float((skip + branch).norm())}
    assert found["norms"] == pytest.approx(norms, rel=1e-4)
    assert found["cosine"] == pytest.approx(float((skip * branch).sum() / skip.norm() / branch.norm()), abs=1e-5)
    assert found["identity"] == (shortcut == "layer1.0")
    assert found["known"]
    shares = found["contributions"]
    assert shares["branch"] == pytest.approx(slope, rel=1e-3, abs=1e-5)
    assert shares["skip"] + shares["branch"] == pytest.approx(shares["sum"], abs=1e-4)
    pictures = unpack(found["pictures"])
    expected = {"skip": skip, "branch": branch, "sum": skip + branch}
    for name, picture in pictures.items():
        cells = expected[name][0].abs().mean(0).numpy()
        assert np.abs(picture - cells).max() <= found["pictures"]["high"] / 509, name


def test_inceptions_branches():
    observation = at_work("googlenet")
    branches = {entry["name"]: entry for entry in flat(concatenated_branches(observation, None))}
    assert len(branches) == 9
    found = branches["inception4b.concat"]
    paths = [f"inception4b.branch{i}" for i in range(1, 5)]
    values, _, slope = recorded(observation, paths, scaled=paths[1])
    assert [branch["name"] for branch in found["branches"]] == ["branch1", "branch2", "branch3", "branch4"]
    assert [[step["detail"] for step in branch["steps"]] for branch in found["branches"]] == [
        ["1×1"],
        ["1×1", "3×3"],
        ["1×1", "3×3"],
        ["3×3", "1×1"],
    ]
    for branch, path in zip(found["branches"], paths, strict=True):
        assert branch["norm"] == pytest.approx(float(values[path][1].norm()), rel=1e-4)
        assert branch["channels"] == values[path][1].shape[1]
    assert found["branches"][1]["contribution"] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    parts = [branch["contribution"] for branch in found["branches"]]
    assert sum(parts) == pytest.approx(found["contribution"], abs=1e-4)
    assert list(unpack(found["pictures"])) == ["0", "1", "2", "3"]


def test_dense_blocks_sources():
    observation = at_work("densenet121")
    network = observation.structure.subject.network
    found = dense_block_sources(observation, None)
    assert [len(block["readers"]) for block in found.values()] == [7, 13, 25, 17]  # with what reads the whole block
    block = found["stage/denseblock1"]
    reader = block["readers"][2]
    assert (reader["name"], reader["channels"]) == ("features.denseblock1.denselayer3.conv1", [64, 32, 32])
    weight = network.get_submodule(reader["name"]).weight.detach().abs()
    means = [float(weight[:, a:b].mean()) for a, b in ((0, 64), (64, 96), (96, 128))]
    assert reader["weights"] == pytest.approx(means, rel=1e-3)
    # Scaled is what this layer alone reads of the second source.
    factor = torch.ones((), requires_grad=True)

    def scale(module, args):
        x = args[0]
        return (torch.cat([x[:, :64], x[:, 64:96] * factor, x[:, 96:]], 1),)

    handle = network.get_submodule("features.denseblock1.denselayer3.norm1").register_forward_pre_hook(scale)
    score = network(observation.values.image.detach())[0, observation.target]
    handle.remove()
    slope = float(torch.autograd.grad(score, factor)[0])
    assert reader["contributions"][1] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert not concatenated_branches(observation, None)  # they are shown as sources


def test_histograms_of_relu6_cut_and_cap():
    observation = at_work("efficientnet_lite0")
    entries = {entry["name"]: entry for entry in flat(activation_histograms(observation, None))}
    modules = observation.structure.subject.network.named_modules()
    paths = [path for path, module in modules if isinstance(module, nn.ReLU6)]
    values, _, _ = recorded(observation, paths)
    assert sorted(entries) == sorted(paths)
    for path, (before, after) in values.items():
        found = entries[path]
        assert (found["function"], found["cut"], found["cap"]) == ("relu6", True, 6.0)
        assert found["negative"] == pytest.approx(float((before < 0).float().mean()), abs=1e-5), path
        assert found["capped"] == pytest.approx(float((before > 6).float().mean()), abs=1e-5), path
        for name, tensor in (("before", before), ("after", after)):
            assert sum(found[name]) == found["values"] == tensor.numel()
            assert sum(found[name][: found["zero"]]) == int((tensor < 0).sum())
            edges = (np.arange(65) - found["zero"]) * found["width"]
            edges[[0, -1]] -= np.array([1, -1]) * found["width"] / 100
            expected = np.histogram(tensor.double().numpy(), edges)[0]
            assert np.abs(np.array(found[name]) - expected).sum() <= 0.001 * tensor.numel() + 2, path
        assert found["norm"][1] == found["moments"][0]
        assert found["moments"][0] == pytest.approx([float(before.mean()), float(before.std(correction=0))], abs=1e-4)
    assert any(found["capped"] > 0 for found in entries.values())


def test_silu_keeps_small_negative_values():
    found = flat(activation_histograms(at_work("efficientnet_b0"), None))
    silu = [entry for entry in found if entry["function"] == "silu"]
    assert len(silu) == len(found)  # the gates' sigmoids are not among them
    assert all(not entry["cut"] and entry["cap"] is None for entry in silu)
    lowest = min(entry["lowest"] for entry in silu)
    assert -0.2785 < lowest < -0.27  # SiLU's minimum is −0.2785, at −1.278


def test_evidence_adds_up_to_the_logit():
    observation = at_work("resnet18")
    network = observation.structure.subject.network
    found = class_evidence(observation)
    values, logits, _ = recorded(observation, ["layer4"])
    maps = values["layer4"][1][0]
    assert found["formula"] == "linear"
    assert [shown["index"] for shown in found["classes"]] == logits.argsort(descending=True).tolist()
    assert found["row"] in observation.structure.parts[found["part"]].rows
    for shown in found["classes"]:
        weight = network.fc.weight.detach()[shown["index"]]
        channels = weight * maps.mean((1, 2))
        assert shown["sum"] + shown["bias"] == pytest.approx(float(logits[shown["index"]]), abs=1e-4)
        assert shown["positive"] + shown["negative"] == pytest.approx(shown["sum"], abs=2e-4)  # six digits of each
        order = channels.argsort(descending=True)
        assert [channel for channel, _ in shown["for"]] == order[:8].tolist()
        assert [channel for channel, _ in shown["against"]] == order.flip(0)[:8].tolist()
        assert [value for _, value in shown["for"]] == pytest.approx(channels[order[:8]].tolist(), abs=1e-5)
        heat = torch.einsum("c,cyx->yx", weight, maps) / maps[0].numel()
        assert torch.allclose(torch.tensor(shown["cells"]), heat, atol=1e-5)


def test_evidence_behind_several_linear_layers_is_gradient_times_value(tiny_network):
    observation = observed(tiny_network("vgg"))
    found = class_evidence(observation)
    network = observation.structure.subject.network
    maps = network.features(observation.values.image.detach()).detach().requires_grad_()
    logits = network.classifier(network.avgpool(maps).flatten(1))[0]
    assert found["formula"] == "gradient"
    shown = found["classes"][0]
    assert (shown["index"], shown["bias"]) == (observation.target, None)
    product = torch.autograd.grad(logits[shown["index"]], maps)[0] * maps.detach()
    assert torch.allclose(torch.tensor(shown["cells"]), product[0].sum(0), atol=1e-6)
    assert shown["sum"] == pytest.approx(float(product.sum()), abs=1e-5)


class Odd(nn.Module):
    """Max pooling, no bias; a sum of the input with itself and of equals; a concatenation with the input."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        y = torch.cat([self.left(x) + self.right(x), x + x], 1)
        return self.head(torch.relu(y).amax((2, 3)))


class Scalars(nn.Module):
    """An activation with limits of its own, and values without a batch: a scalar, and its bounded factor."""

    input_size = 8

    def __init__(self):
        super().__init__()
        self.conv, self.limit, self.head = nn.Conv2d(3, 6, 3), nn.Hardtanh(-0.1, 0.2), nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.head((self.limit(x) * x.mean().sigmoid() / x.amax()).mean((2, 3)))


def test_limits_of_an_activation_are_its_own_and_a_scalar_is_no_gate():
    observation = observed(Scalars(), 8)
    before = observation.values.outputs[0].detach()
    (limited,) = (found for found in flat(activation_histograms(observation, None)) if found["function"] == "hardtanh")
    assert limited["cap"] == 0.2 and not limited["cut"]
    assert limited["capped"] == pytest.approx(float((before > 0.2).float().mean()), abs=1e-5) and limited["capped"] > 0
    assert channel_gates(observation, None) == {}
    assert vectors(observation, None)  # the pooled map; not the scalars


class Flat(nn.Module):
    """No map at all."""

    input_size = 8

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x):
        return self.head(x.flatten(1))


def test_other_networks_have_what_can_be_said_of_them():
    observation = observed(Odd(), 8)
    (addition,) = flat(residual_additions(observation, None))  # x + x has no skip and no branch
    assert not addition["known"]
    (joined,) = flat(concatenated_branches(observation, None))
    assert [branch["channels"] for branch in joined["branches"]] == [3, 3]
    evidence = class_evidence(observation)
    assert evidence["formula"] == "gradient"  # class activation maps need average pooling
    bare = observed(Flat(), 8)
    assert all(not section(bare, None) for section in SECTIONS)
    assert class_evidence(bare) is None
    for section in SECTIONS:
        json.dumps(section(observation, None), allow_nan=False)
