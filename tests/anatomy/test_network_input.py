"""Inputs of every sort, and what is said about those that do not work."""

import inspect
import sys

import pytest
import torch
from torch import nn

import vertebra
from vertebra import models
from vertebra.errors import UsageError, VertebraError

CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


# --- sizes and dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shape"),
    [(None, (1, 3, 224, 224)), (64, (1, 3, 64, 64)), ((48, 64), (1, 3, 48, 64)), ((3, 48, 64), (1, 3, 48, 64))],
)
def test_sizes(size, shape):
    assert vertebra.anatomy(CONV, size).input_shapes == (shape,)


def test_the_size_of_a_name_is_that_of_its_weights():
    assert vertebra.anatomy("efficientnet_lite2").input_shapes == ((1, 3, 260, 260),)


def test_channels_come_from_the_network():
    assert vertebra.anatomy(nn.Sequential(nn.Conv2d(7, 4, 3)), 8).input_shapes == ((1, 7, 8, 8),)
    assert vertebra.anatomy(models.resnet18(in_channels=5), 64).input_shapes == ((1, 5, 64, 64),)


@pytest.mark.parametrize("dtype", [torch.float16, "float16", torch.bfloat16])
def test_dtypes_halve_the_bytes(dtype):
    half, full = vertebra.anatomy(CONV, 8, dtype=dtype), vertebra.anatomy(CONV, 8)
    assert (half.bytes * 2, half.macs) == (full.bytes, full.macs)
    assert half.dtype == str(dtype).removeprefix("torch.") == half.rows[0].dtype


def test_the_dtype_is_the_networks_own():
    assert vertebra.anatomy(nn.Sequential(nn.Conv2d(3, 4, 3)).half(), 8).dtype == "float16"


# --- several inputs ---------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, image, scale, twice=False):
        y = self.conv(image) * scale
        return {"y": y * 2.0 if twice else y}


IMAGE, SCALE = torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 1, 1)


@pytest.mark.parametrize(
    ("inputs", "ops"),
    [
        ((IMAGE, SCALE), ["conv2d", "mul"]),
        ([IMAGE, SCALE, True], ["conv2d", "mul", "mul"]),
        ({"image": IMAGE, "scale": SCALE, "twice": True}, ["conv2d", "mul", "mul"]),
        ({"scale": SCALE.to("meta"), "image": IMAGE.to("meta")}, ["conv2d", "mul"]),
    ],
)
def test_several_inputs(inputs, ops):
    anatomy = vertebra.anatomy(Two(), inputs=inputs)
    assert [row.op for row in anatomy.rows] == ops
    assert anatomy.batch_size == 2
    assert anatomy.macs == 2 * 4 * 64 * 3
    assert anatomy.training_memory(batch_size=8).saved_activations > anatomy.training_memory().saved_activations


def test_an_index_of_whole_numbers_has_a_shape():
    class Table(nn.Module):
        def forward(self, x):
            return x[:, torch.tensor([0, 2, 1, 0])]

    (row,) = [row for row in vertebra.anatomy(Table(), 8).rows if row.op == "index"]
    assert row.output_shape == (1, 4, 8, 8)


def test_one_tensor_and_whole_numbers():
    words = vertebra.anatomy(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)), inputs=torch.zeros(3, 5).long())
    assert [row.op for row in words.rows if row.kind != "view"] == ["embedding", "linear"]
    assert "int64 3 × 5" in words.input


# --- errors -----------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Item(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Branch()

    def forward(self, x):
        return self.inner(x)


class Selection(nn.Module):
    def forward(self, x):
        return x[x > 0]


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy())


class Lock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.generator = (value for value in ())  # cannot be copied

    def forward(self, x):
        return self.conv(x)


def script():
    return torch.jit.trace(CONV, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("resnet500", {}, ["'resnet500'", "Did you mean 'resnet50'"]),
        (3, {}, ["int", "torch.nn.Module", "'resnet50'"]),
        ("resnet18", {"input_size": 0}, ["input_size is 0", "(height, width)"]),
        ("resnet18", {"input_size": True}, ["input_size is True"]),
        ("resnet18", {"input_size": (1, 3, 224, 224)}, ["(1, 3, 224, 224)", "(channels, height, width)"]),
        ("resnet18", {"input_size": (4, 224, 224)}, ["(N, 3, H, W)", "(1, 4, 224, 224)"]),
        ("resnet18", {"batch_size": 0}, ["batch_size is 0", "at least 1"]),
        ("resnet18", {"dtype": "float23"}, ["'float23'", "float16"]),
        ("resnet18", {"dtype": torch.int8}, ["torch.int8", "floating-point"]),
        ("vgg11", {"input_size": 31}, ["at least 32 × 32", "31 × 31"]),
        (CONV, {"input_size": 2}, ["Sequential does not take float32 1 × 3 × 2 × 2", "input_size="]),
        (CONV, {"input_size": (5, 8, 8)}, ["1 × 5 × 8 × 8", "channel"]),
        (nn.Linear(7, 2), {}, ["Linear does not take", "inputs="]),
        (Two(), {"input_size": 8}, ["missing 1 required positional argument: 'scale'", "takes (image, scale, twice="]),
        (Two(), {"inputs": IMAGE}, ["'scale'", "a tuple of tensors"]),
        (Two(), {"inputs": {"picture": IMAGE}}, ["'picture'", "by name"]),
        (Two(), {"inputs": "image"}, ["inputs is a str", "a dict"]),
        (Two(), {"inputs": (IMAGE, SCALE), "input_size": 8}, ["both"]),
        (Branch(), {"input_size": 8}, ["aten._local_scalar_dense", "own forward()", "torch.where"]),
        (Item(), {"input_size": 8}, ["in module 'inner'", "torch.where"]),
        (Selection(), {"input_size": 8}, ["aten.index", "mask"]),
        (Numpy(), {"input_size": 8}, ["Numpy", "meta"]),
        (Lock(), {"input_size": 8}, ["Lock cannot be copied", "generator"]),
        (nn.Sequential(nn.LazyLinear(3)), {}, ["0.weight has no shape yet", "Run the network once"]),
        (script, {}, ["TorchScript", "Python module"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
def test_errors_say_what_to_change(model, options, words):
    model = model() if inspect.isfunction(model) else model
    with pytest.raises(UsageError) as caught:
        vertebra.anatomy(model, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_operator_without_a_shape_rule_says_so():
    with torch.library._scoped_library("vertebra_shapeless", "DEF") as library:
        library.define("odd(Tensor x) -> Tensor")
        library.impl("odd", lambda x: x + 1, "CPU")

        class Odd(nn.Module):
            def forward(self, x):
                return torch.ops.vertebra_shapeless.odd(x)

        with pytest.raises(UsageError, match="register_fake"):
            vertebra.anatomy(Odd(), 8)


def test_after_an_error_all_is_as_before():
    network = Item().train()
    with pytest.raises(UsageError):
        vertebra.anatomy(network, 8)
    assert network.training
    assert not network._forward_hooks
    assert vertebra.anatomy(CONV, 8).macs > 0
    assert network(torch.ones(1, 3, 4, 4)).shape == (1, 3, 4, 4)


def test_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(VertebraError, match="pip install pandas"):
        vertebra.anatomy(CONV, 8).to_frame()


def test_frame():
    pytest.importorskip("pandas")
    frame = vertebra.anatomy(CONV, 8).to_frame()
    assert list(frame["op"]) == ["conv2d", "relu"]
    assert frame["macs"].sum() == vertebra.anatomy(CONV, 8).macs
