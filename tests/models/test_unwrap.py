"""The weights of a network among all else that training scripts save, and what is told of the choice."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vertebra.errors import VertebraWarning, WeightsError
from vertebra.models import create_model
from vertebra.models.unwrap import _words

State = dict[str, Tensor]
pytestmark = pytest.mark.usefixtures("tiny_registry")


@pytest.fixture(scope="module")
def plain(tiny_network: Callable[..., Any]) -> State:
    return dict(tiny_network("mobilenetv2", num_classes=3).state_dict())


@pytest.fixture(scope="module")
def average(plain: State) -> State:
    return {name: value + 1 for name, value in plain.items()}


def below(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def without(state: State, word: str) -> State:
    return {name: value for name, value in state.items() if word not in name}


def loaded(content: Any, path: Path) -> tuple[State, list[str]]:
    """What comes into the network, and what is told."""
    torch.save(content, path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        state = create_model("mobilenet_v2", weights=path).state_dict()
    return dict(state), [str(warning.message) for warning in told if warning.category is VertebraWarning]


def assert_same(got: State, wanted: State) -> None:
    assert not [name for name, value in wanted.items() if not torch.equal(got[name], value)]


@pytest.mark.parametrize(
    "keys", [(), ("state_dict",), ("model_state_dict",), ("net",), ("params", "weights"), ("a", "b", "c", "d")]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "module._orig_mod.", "model.net.backbone."])
def test_weights_are_found_below_any_key_and_prefix(
    plain: State, tmp_path: Path, keys: tuple[str, ...], prefix: str
) -> None:
    content: Any = below(prefix, plain)
    for key in reversed(keys):
        content = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, key: content}
    got, told = loaded(content, tmp_path / "run.pth.tar")
    assert_same(got, plain)
    assert told == []


def test_weights_are_not_searched_for_ever(plain: State, tmp_path: Path) -> None:
    content: Any = {"epoch": 1, "model": plain}
    content["self"] = content
    assert_same(loaded(content, tmp_path / "run.pth")[0], plain)
    deep: Any = plain
    for _ in range(5):
        deep = {"a": deep}
    with pytest.raises(WeightsError, match=r"is not a dict of tensors"):
        loaded(deep, tmp_path / "deep.pth")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (lambda p, a: {"state_dict": p, "state_dict_ema": a}, "'state_dict_ema'"),
        (lambda p, a: {"model_ema": below("module.", a), "model": p}, "'model_ema → module'"),
        (lambda p, a: {"modelEMA": a, "model": p}, "'modelEMA'"),
        (lambda p, a: {"model": p, "best": below("module.", a) | {"n_averaged": torch.tensor(4)}}, "'best → module'"),
        (lambda p, a: {"state_dict": below("model.", p) | below("ema_model.module.", a)}, "'state_dict → ema_model"),
        (
            lambda p, a: {"state_dict": below("net.", p), "callbacks": {"EMA": {"ema_weights": below("net.", a)}}},
            "'callbacks → EMA → ema_weights → net'",
        ),
    ],
)
def test_the_averaged_copy_is_taken_and_told(
    plain: State, average: State, tmp_path: Path, content: Any, place: str
) -> None:
    got, told = loaded(content(plain, average), tmp_path / "run.ckpt")
    assert_same(got, average)
    assert len(told) == 1
    assert f"an averaged copy at {place}" in told[0]
    assert "which is loaded" in told[0]
    assert "run.ckpt' holds weights at '" in told[0]


@pytest.mark.parametrize("averaged", [None, {}, {"decay": 0.9, "updates": 3}])
def test_an_averaged_copy_that_was_never_made_is_no_matter(plain: State, tmp_path: Path, averaged: Any) -> None:
    got, told = loaded({"model": plain, "ema": averaged}, tmp_path / "run.pth")
    assert_same(got, plain)
    assert told == []


def test_an_averaged_copy_that_is_not_whole_is_passed_by_and_told(plain: State, average: State, tmp_path: Path) -> None:
    got, told = loaded({"model": plain, "ema": argparse.Namespace(module=average)}, tmp_path / "run.pth")
    assert_same(got, plain)
    assert "(ema, an object of argparse.Namespace)" in told[0]


def test_an_averaged_copy_that_is_a_list_of_parameters_is_told(plain: State, tmp_path: Path) -> None:
    """As the package torch-ema saves it."""
    averaged = {"decay": 0.999, "num_updates": 3, "shadow_params": [value + 1 for value in plain.values()]}
    got, told = loaded({"model": plain, "ema": averaged}, tmp_path / "w.pth")
    assert_same(got, plain)
    assert len(told) == 1
    assert f"shadow_params, a list of {len(plain)} tensors without names" in told[0]
    assert "the weights at 'model' are loaded" in told[0]


def test_numbers_of_averages_are_no_networks(plain: State, tmp_path: Path) -> None:
    content = {"model": plain, "avg_loss": np.float64(0.3), "ema_decay": np.float32(0.9), "ema_step": np.arange(3)}
    assert loaded(content, tmp_path / "w.pth")[1] == []


def test_lightnings_averaging_keeps_the_averaged_copy_as_the_state_dict(
    plain: State, average: State, tmp_path: Path
) -> None:
    content = {
        "state_dict": below("model.", average),
        "current_model_state": below("model.", plain),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }
    got, told = loaded(content, tmp_path / "w.ckpt")
    assert_same(got, average)
    assert len(told) == 1
    assert "an averaged copy at 'state_dict → model', which is loaded" in told[0]


def test_an_averaged_copy_alone_is_taken(average: State, tmp_path: Path) -> None:
    content = below("module.", average) | {"n_averaged": torch.tensor(9)}
    got, told = loaded(content, tmp_path / "swa.bin")
    assert_same(got, average)
    assert told == []


@pytest.mark.parametrize(
    "content",
    [
        lambda p, a: {"student": p, "teacher": a},
        lambda p, a: {"state_dict": below("encoder_q.", p) | below("encoder_k.", a)},
        lambda p, a: {"model": p, "ema": a, "swa": without(p, "num_batches")},
    ],
)
def test_several_that_differ_are_refused_by_name(plain: State, average: State, tmp_path: Path, content: Any) -> None:
    torch.manual_seed(1)
    other = {name: value * 2 + 1 for name, value in plain.items()}
    with pytest.raises(
        WeightsError, match=r"several weights that fit this network and differ: '.*' and '.*own: torch\.save"
    ):
        loaded(content(other, average), tmp_path / "run.pth")


def test_several_that_are_equal_are_one(plain: State, tmp_path: Path) -> None:
    copy = {name: value.clone() for name, value in plain.items()}
    got, told = loaded({"state_dict": plain, "model": copy}, tmp_path / "run.pth")
    assert_same(got, plain)
    assert told == []


def test_what_else_lies_beside_the_prefix_is_told(plain: State, tmp_path: Path) -> None:
    content = {"state_dict": below("model.", plain) | {"criterion.weight": torch.ones(3)}}
    got, told = loaded(content, tmp_path / "run.ckpt")
    assert_same(got, plain)
    assert len(told) == 1
    assert "are at 'state_dict → model'; skipped: criterion.weight." in told[0]


def test_a_tensor_too_many_or_too_few_is_an_error(plain: State, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"1 unknown to the network: criterion\.weight"):
        loaded({"model": plain | {"criterion.weight": torch.ones(3)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"1 missing in the file: features\.0\.1\.bias"):
        loaded({"model": below("module.", without(plain, "features.0.1.bias"))}, tmp_path / "b.pth")


def test_the_weights_of_another_network_are_named_as_such(plain: State, tmp_path: Path) -> None:
    torch.save({"model": plain}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"a\.pth: no DenseNet: of {len(plain)} tensors"):
        create_model("densenet121", weights=tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"do not fit EfficientNet with its "):
        create_model("efficientnet_lite0", weights=tmp_path / "a.pth")


def test_what_stands_beside_the_weights_stays_closed(plain: State, tmp_path: Path) -> None:
    got, told = loaded({"model": plain, "args": argparse.Namespace(lr=0.1)}, tmp_path / "run.pth")
    assert_same(got, plain)
    assert told == []
    with pytest.raises(WeightsError, match=r"wants to run 'argparse\.Namespace'"):
        loaded(plain | {"args": argparse.Namespace(lr=0.1)}, tmp_path / "flat.pth")
    with pytest.raises(WeightsError, match=r"wants to run 'vertebra\.models\.resnet\.ResNet'.*state_dict"):
        loaded({"epoch": 1, "model": create_model("resnet18")}, tmp_path / "whole.pth")


def test_words_of_names() -> None:
    assert _words("state_dict_ema") == ["state", "dict", "ema"]
    assert _words("modelEMA_state") == ["model", "ema", "state"]
    assert _words("EmaModel.module") == ["ema", "model", "module"]
    assert _words("schema") == ["schema"]


def test_keys_that_are_no_names_are_no_matter(plain: State, tmp_path: Path) -> None:
    got, _ = loaded({7: {"step": torch.ones(1)}, "net": plain, ("a", 1): 2}, tmp_path / "run.pth")
    assert_same(got, plain)


def test_a_body_without_its_classifier_is_told_as_that(tmp_path: Path) -> None:
    """Encoders of self-supervised training, and classifiers of other names."""
    torch.manual_seed(0)
    body = without(dict(create_model("resnet18").state_dict()), "fc.")
    head = {"head.fc.weight": torch.ones(5, 512), "head.fc.bias": torch.ones(5)}
    path = tmp_path / "encoder.pth"
    for content, place, rest in (
        (body, "at the top", "nor any other linear layer"),
        ({"state_dict": below("backbone.", body)}, "at 'state_dict → backbone'", "nor any other linear layer"),
        (below("backbone.", body) | head, "at 'backbone'", "are head.fc.weight. .* renamed: backbone.fc.weight"),
    ):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=rf"body {place} and no classifier 'fc' beside it.*{rest}"):
            create_model("resnet18", weights=path)
    torch.save(body, path)
    with pytest.raises(WeightsError, match=r"conv1.weight is there, and no linear layer is in fc.*add --model NAME"):
        create_model("resnet50", weights=path)  # not its body
    with pytest.raises(WeightsError, match=r"none is the convolution features.0.0.weight.*add --model NAME"):
        create_model("mobilenet_v2", weights=path)


def test_values_that_are_not_finite_are_told(plain: State, tmp_path: Path) -> None:
    name = "features.1.conv.1.weight"
    for value in (float("nan"), float("inf")):
        spoilt = plain | {name: plain[name].clone()}
        spoilt[name].view(-1)[3] = value
        _, told = loaded(spoilt, tmp_path / "spoilt.pth")
        assert len(told) == 1 and f"spoilt.pth' holds NaN or infinite values in {name}" in told[0]
    large = plain | {name: torch.full_like(plain[name], 6e4).half()}  # whose sum overflows
    assert loaded(large, tmp_path / "large.pth")[1] == []
