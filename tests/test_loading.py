"""`vertebra.load`: a file or a name."""

import os
import subprocess
import sys

import pytest

import vertebra
from vertebra.cache import cache_dir
from vertebra.errors import MissingExtraError, UsageError, VertebraWarning


@pytest.fixture
def exports(tmp_path, monkeypatch, write_model):
    """An empty cache, and an export that only counts."""
    import vertebra.export

    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    calls = []

    def export(prepared, out):
        calls.append(prepared.card.architecture)
        write_model(out)

    monkeypatch.setattr(vertebra.export, "export", export)
    return calls


def test_a_name_is_exported_once(exports):
    said = []
    first = vertebra.load("efficientnet_lite0", progress=said.append)
    assert exports == ["efficientnet_lite0"] and said == ["exporting efficientnet_lite0, once"]
    assert first.path.parent == cache_dir() / "models"
    assert vertebra.load("efficientnet_lite0").path == first.path
    assert exports == ["efficientnet_lite0"]
    assert sorted(first.path.parent.iterdir()) == [first.path.with_suffix(".json"), first.path]


def test_a_file_in_the_cache_is_the_same_whenever_it_is_made(exports, monkeypatch):
    """Results say by which file they were made, and can be gone on with after the cache has been deleted."""
    import vertebra.export

    cards = []
    monkeypatch.setattr(
        vertebra.export,
        "export",
        lambda prepared, out, counted=vertebra.export.export: (cards.append(prepared.card), counted(prepared, out)),
    )
    path = vertebra.load("efficientnet_lite0").path
    path.unlink()
    vertebra.load("efficientnet_lite0")
    assert cards[0] == cards[1] and cards[0].created is None


def test_other_weights_are_another_file(exports, tmp_path):
    import torch

    from vertebra import create_model

    torch.save(create_model("resnet18", num_classes=3).state_dict(), tmp_path / "a.pth")
    one = vertebra.load("resnet18", weights=tmp_path / "a.pth").path
    torch.save(create_model("resnet18", num_classes=3).state_dict(), tmp_path / "a.pth")
    other = vertebra.load("resnet18", weights=str(tmp_path / "a.pth")).path
    assert one != other and len(exports) == 2


def test_what_is_assumed_of_weights_is_told_each_time(exports, tmp_path):
    import torch

    from vertebra import create_model

    torch.save(create_model("resnet18", num_classes=3).state_dict(), tmp_path / "a.pth")
    with pytest.warns(VertebraWarning, match=r"a\.pth' does not say how its network is used.*classes 0 to 2"):
        vertebra.load("resnet18", weights=tmp_path / "a.pth")
    (tmp_path / "a.pth").rename(tmp_path / "b.pth")
    with pytest.warns(VertebraWarning, match=r"b\.pth' does not say how its network is used.*classes 0 to 2") as told:
        vertebra.load("resnet18", weights=tmp_path / "b.pth")
    assert len(told) == 1 and len(exports) == 1


def test_an_unknown_name_has_a_hint(exports):
    with pytest.raises(UsageError, match="Did you mean 'resnet50'"):
        vertebra.load("resnet-50")
    with pytest.raises(UsageError, match="IMAGENET1K"):
        vertebra.load("resnet18", weights="IMAGENET9K")


def test_a_name_needs_torch_the_first_time(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "vertebra.export")
    for name in [name for name in sys.modules if name.startswith(("vertebra.export.", "vertebra.models"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"predicting with a name .*vertebra\[torch\]"):
        vertebra.load("efficientnet_lite0")


def test_a_failed_export_leaves_nothing(exports, monkeypatch):
    import vertebra.export

    def fail(prepared, out):
        out.write_bytes(b"half")
        raise UsageError("no")

    monkeypatch.setattr(vertebra.export, "export", fail)
    with pytest.raises(UsageError):
        vertebra.load("efficientnet_lite0")
    assert list((cache_dir() / "models").iterdir()) == []


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path):
    """In place, its size and the time of its last change as before."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _deny(path):
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("damage", [_cut, _flip, _deny, lambda path: path.write_bytes(b"")])
def test_a_damaged_export_is_made_again(exports, damage):
    path = vertebra.load("efficientnet_lite0").path
    content = path.read_bytes()
    damage(path)
    with pytest.warns(VertebraWarning, match=r"onnx is damaged\. What it held is made again"):
        assert vertebra.load("efficientnet_lite0").path == path
    assert path.read_bytes() == content and len(exports) == 2
    vertebra.load("efficientnet_lite0")
    assert len(exports) == 2


def test_an_export_whose_note_is_damaged_is_made_again(exports):
    """The note has what is told with each use, and what the file is compared with."""
    path = vertebra.load("efficientnet_lite0").path
    note = path.with_suffix(".json")
    note.write_bytes(note.read_bytes().replace(b"DEFAULT", b"DEFAUKT"))
    with pytest.warns(VertebraWarning, match=r"json is damaged"):
        vertebra.load("efficientnet_lite0")
    note.unlink()
    vertebra.load("efficientnet_lite0")
    assert len(exports) == 3


def test_an_export_that_was_only_touched_or_copied_is_kept(exports):
    path = vertebra.load("efficientnet_lite0").path
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert vertebra.load("efficientnet_lite0").path == path
    assert len(exports) == 1


def test_where_the_cache_cannot_be_written(exports, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(VertebraWarning, match=r"cannot be written \(.*\), so efficientnet_lite0 is"):
        path = vertebra.load("efficientnet_lite0").path
    assert path.is_file() and tmp_path not in path.parents
    with pytest.warns(VertebraWarning, match="cannot be written"):
        assert vertebra.load("efficientnet_lite0").path == path


_FIRST_USE = """
import sys, time, types
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Card:
    created: str | None = "now"

@dataclass
class Prepared:
    card: Card

def export(prepared, out):
    Path(sys.argv[2]).open("a").write("made\\n")
    time.sleep(0.5)  # in which all others come
    out.write_bytes(Path(sys.argv[1]).read_bytes())

fake = types.ModuleType("vertebra.export")
fake.prepare, fake.export = lambda name, weights: Prepared(Card()), export
sys.modules["vertebra.export"] = fake

import vertebra
print(vertebra.load("resnet18", threads=1).predict(sys.argv[3]).predictions[0]["class"])
"""


def test_several_first_uses_at_once(tmp_path, tiny_model):
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    arguments = [sys.executable, "-c", _FIRST_USE, str(tiny_model), str(tmp_path / "made"), str(tmp_path / "a.png")]
    environment = {**os.environ, "VERTEBRA_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert len({out for out, _ in said}) == 1
    assert (tmp_path / "made").read_text() == "made\n"
    assert sorted(path.suffix for path in (tmp_path / "cache" / "models").iterdir()) == [".json", ".onnx"]


def test_a_file_has_its_weights(tiny_model):
    with pytest.raises(UsageError, match="already has weights"):
        vertebra.load(tiny_model, weights="IMAGENET1K_V1")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_weights_alone_are_no_network(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"vertebra export .* --model NAME --out w\.onnx"):
        vertebra.load(str(tmp_path / name))
