"""Layer by layer against fvcore and torchinfo. Where they differ, the test says by how much and why."""

import logging
import math

import pytest
import torch
from torch import nn

from vertebra import models

SIZE = 64  # the oracles run the networks; what they count scales with the size


@pytest.fixture(scope="module")
def network():
    def build(name):
        published = {"aux_logits": False, "transform_input": True} if name == "googlenet" else {}
        return models.get_model(name, **published).eval()

    return build


def macs_by_module(anatomy):
    found = {}
    for row in anatomy.rows:
        found[row.module] = found.get(row.module, 0) + row.macs
    return found


def parameters_by_module(anatomy):
    found = {}
    for row in anatomy.rows:
        found[row.module] = found.get(row.module, 0) + row.parameters
    return found


def elements_by_module(anatomy):
    """Results of the layer, over all its calls."""
    found = {}
    for row in anatomy.rows:
        found[row.module] = found.get(row.module, 0) + math.prod(row.output_shape)
    return found


def leaves(network):
    return [(path, module) for path, module in network.named_modules() if not any(True for _ in module.children())]


@pytest.mark.slow  # test_torchinfo has the same layers, and test_rows.py each operation, by what torch counts
def test_fvcore(of_family, network, taken):
    fvcore = pytest.importorskip("fvcore.nn")
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    built = network(of_family)
    count = fvcore.FlopCountAnalysis(built, torch.randn(1, 3, SIZE, SIZE))
    theirs = count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_module()
    anatomy = taken(of_family, SIZE)
    ours, elements = macs_by_module(anatomy), elements_by_module(anatomy)
    read = {row.module: sum(math.prod(shape) for shape in row.input_shapes) for row in anatomy.rows}
    compared = 0
    for path, module in leaves(built):
        if isinstance(module, nn.BatchNorm2d):
            # fvcore counts a norm in inference as two operations a value, among operations of which it otherwise takes
            # a multiplication and an addition for one. Here they are other arithmetic, and two as well.
            assert (theirs[path], ours.get(path, 0)) == (2 * elements[path], 0)
            assert theirs[path] == sum(row.other_ops for row in anatomy.rows if row.module == path)
        elif isinstance(module, nn.AdaptiveAvgPool2d) and path in theirs and path in elements:
            # fvcore counts one addition for each value that is pooled. Here that is other arithmetic too.
            assert (theirs[path], ours.get(path, 0)) == (read[path], 0)
        else:
            assert theirs.get(path, 0) == ours.get(path, 0), path
            compared += theirs.get(path, 0) > 0
    assert compared >= 11


def test_torchinfo(of_family, network, taken):
    torchinfo = pytest.importorskip("torchinfo")
    built = network(of_family)
    summary = torchinfo.summary(built, input_size=(1, 3, SIZE, SIZE), verbose=0, depth=20)
    anatomy = taken(of_family, SIZE)
    macs, parameters, elements = (f(anatomy) for f in (macs_by_module, parameters_by_module, elements_by_module))
    path_of = {id(module): path for path, module in built.named_modules()}
    assert summary.total_params == anatomy.parameters
    seen = set()
    for layer in summary.summary_list:
        if not layer.is_leaf_layer or layer.is_recursive:
            continue
        path = path_of[id(layer.module)]
        seen.add(path)
        assert layer.num_params == parameters.get(path, 0), path
        module, ours = layer.module, macs.get(path, 0)
        if isinstance(module, nn.BatchNorm2d):
            # torchinfo takes each parameter of a norm for one multiply-accumulate, however large the map is.
            assert (layer.macs, ours) == (2 * module.num_features, 0)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            # torchinfo counts the addition of the bias as one more multiply-accumulate. Papers and torchvision do not.
            assert layer.macs == ours + elements[path] - padding(anatomy, path)
        else:
            assert layer.macs == ours, path
    assert len(seen) > 20


def padding(anatomy, path):
    """Values that a layer with padding of its own writes before it convolves."""
    return sum(math.prod(row.output_shape) for row in anatomy.rows if row.module == path and row.op == "pad")
