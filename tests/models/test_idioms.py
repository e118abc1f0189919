"""Code that was written for torchvision: layers replaced, hooked and appended, files saved over."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from vertebra.errors import UsageError, WeightsError
from vertebra.models import create_model, get_weight

theirs = pytest.importorskip("torchvision.models", reason="torchvision is the oracle")
SMALL = tiny.one_of_each(torchvision=True)


def pair(name: str, **options: Any) -> list[nn.Module]:
    models = []
    if name == "vgg11":  # with less than the 120 M parameters of its classifier
        for builder in (theirs.get_model, create_model):
            with torch.device("meta"):
                model = builder(name, **options).eval()
            model.classifier[0], model.classifier[3] = nn.Linear(25088, 16), nn.Linear(16, 16)
            model.classifier[6] = nn.Linear(16, 10)
            torch.manual_seed(0)
            for parameter in model.to_empty(device="cpu").parameters():
                nn.init.normal_(parameter, 0, 0.05)
            models.append(model)
        return models
    for builder in (theirs.get_model, create_model):
        torch.manual_seed(0)
        models.append(builder(name, **({"init_weights": True} if name == "googlenet" else {}), **options).eval())
    return models


X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["vgg11", "googlenet", "resnet18", "efficientnet_b0"])
def test_a_replaced_pooling_is_used(name: str) -> None:
    outputs = []
    for model in pair(name):
        model.avgpool = nn.AdaptiveMaxPool2d(7 if name == "vgg11" else 1)
        with torch.no_grad():
            outputs.append(model(X))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", SMALL)
def test_hooks_are_called_as_often(name: str) -> None:
    called, models = [], pair(name)
    for model in models:
        seen: list[str] = []
        for child, module in model.named_children():
            module.register_forward_hook(lambda *_, child=child, seen=seen: seen.append(child))
        with torch.no_grad():
            model(X)
        called.append(seen)
    assert called[0] == called[1]
    names = [[n for n, _ in model.named_modules()] for model in models]
    assert names[0] == names[1]


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v2", "efficientnet_b0"])
def test_appended_and_removed_layers(name: str) -> None:
    outputs = []
    for model in pair(name):
        width = {"vgg11": 512}.get(name, 1280)
        torch.manual_seed(2)
        model.features.append(nn.Conv2d(width, width, 1, groups=width))
        if name == "vgg11":
            model.features = nn.Sequential(*list(model.features)[:-2])
        with torch.no_grad():
            outputs.append(model(X))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "conv1"),
        ("vgg11", "features.0"),
        ("densenet121", "features.conv0"),
        ("efficientnet_b0", "features.0.0"),
    ],
)
def test_a_stem_replaced_by_hand(name: str, stem: str) -> None:
    model = create_model(name, num_classes=3).eval()
    parent, _, child = stem.rpartition(".")
    old = model.get_submodule(stem)
    new = nn.Conv2d(1, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    setattr(model.get_submodule(parent), child, new)
    with torch.no_grad():
        assert model(X[:, :1]).shape == (2, 3)
        assert model.in_channels == 1
        setattr(model.get_submodule(parent), child, nn.Sequential(new))
        assert model(X[:, :1]).shape == (2, 3)


@pytest.mark.parametrize("node", ["avgpool", "layer4", "fc"])
def test_feature_extraction(node: str) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    outputs = [create_feature_extractor(model, [node])(X)[node] for model in pair("resnet18")]
    assert torch.equal(*outputs)


@pytest.mark.slow
@pytest.mark.no_cover  # tracing torch's compiler takes twice as long
def test_checkpointing_compiles(tiny_network: Callable[..., Any]) -> None:
    model = tiny_network("resnet", num_classes=3).train()
    plain = copy.deepcopy(model)
    model.set_activation_checkpointing(True)
    torch.compiler.reset()
    torch.compile(model, backend="aot_eager")(X).sum().backward()
    plain(X).sum().backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)


# --- files ------------------------------------------------------------------------------------------------------------


SAVE_OVER = """
import sys, torch
from safetensors.torch import save_file
from vertebra.models import create_model

def save(state):
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")

for kind, path in (argument.split("=", 1) for argument in sys.argv[1:]):
    print(kind, flush=True)
    save(create_model("mobilenet_v2", num_classes=4).state_dict())
    model = create_model("mobilenet_v2", weights=path)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    save(model.state_dict())
    again = create_model("mobilenet_v2", weights=path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
"""


def test_saving_over_the_file_that_a_network_came_from(tmp_path: Path) -> None:
    """In a process of its own: a mapped file would end it with a bus error."""
    kinds = {"zip": "w.pth", "older": "v.pth", "safetensors": "w.safetensors"}
    files = [f"{kind}={tmp_path / name}" for kind, name in kinds.items()]
    done = subprocess.run([sys.executable, "-c", SAVE_OVER, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(kinds)


@pytest.mark.parametrize("kind", ["zip", "older", "safetensors"])
def test_every_format_gives_the_same_output_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    expected = theirs.resnet18().eval()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(expected.state_dict(), path)
    else:
        torch.save(expected.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    model = create_model("resnet18", weights=path).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model(x), expected(x))


def test_a_file_keeps_its_channels(tmp_path: Path) -> None:
    torch.save(create_model("resnet18", in_channels=5).state_dict(), tmp_path / "five.pth")
    assert create_model("resnet18", weights=tmp_path / "five.pth").in_channels == 5
    assert create_model("resnet18", weights=tmp_path / "five.pth", in_channels=1).in_channels == 1


def test_a_counter_that_was_cast_with_the_rest(tmp_path: Path) -> None:
    state = create_model("resnet18").state_dict()
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "half.pth")
    assert create_model("resnet18", weights=tmp_path / "half.pth").bn1.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("name", ["model.pth.tar", "model.bin", "folder/none.ckpt"])
def test_a_path_with_another_ending_is_called_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "/" not in name:
        Path(name).write_bytes(b"\x80\x02.")
    with pytest.raises(WeightsError, match=r"damaged or cut short|no weight file"):
        create_model("resnet18", weights=name)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_a_bare_pickle_is_named_for_what_it_is(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    import pickle

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(WeightsError, match=r"more than tensors and wants to run 'builtins\.print'"):
        create_model("resnet18", weights=tmp_path / "evil.pth")
    assert not recwarn.list


# --- arguments --------------------------------------------------------------------------------------------------------


def test_numbers_of_numpy() -> None:
    assert create_model("resnet18", num_classes=np.int64(7)).num_classes == 7


@pytest.mark.parametrize("x", [np.zeros((1, 3, 64, 64)), [1], None])
def test_what_is_no_tensor(x: Any) -> None:
    with pytest.raises(UsageError, match="takes a tensor"):
        create_model("resnet18")(x)


def test_odd_arguments() -> None:
    model = create_model("resnet18")
    model.fc = nn.Identity()
    with pytest.raises(UsageError, match="width is unknown"):
        model.num_classes  # noqa: B018
    for call in (
        lambda: create_model(None),  # type: ignore[arg-type]
        lambda: create_model(3),  # type: ignore[arg-type]
        lambda: get_weight(None),  # type: ignore[arg-type]
        lambda: model.set_classifier(None),  # type: ignore[arg-type]
        lambda: model.set_activation_checkpointing("no"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError):
            call()
