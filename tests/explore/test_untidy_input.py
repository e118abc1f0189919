"""Networks that do not end in logits, photos that disappear, names that are no text, places that are no files."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vertebra.errors import UsageError
from vertebra.explore import exploration
from vertebra.explore import page as explore_page
from vertebra.explore.document import build_document
from vertebra.explore.notes import said
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.page import check_page_path, pack, packed_bytes, page_bytes
from vertebra.explore.patches import find_patches, photos_below
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import load_subject


class Net(nn.Module):
    input_size = (3, 16, 16)

    def __init__(self, end=lambda logits: logits, classes=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 6, 3, 2), nn.Linear(6, classes)
        self.end = end

    def forward(self, x):
        return self.end(self.fc(self.conv(x).relu().mean((2, 3))))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 20, 3), np.uint8)).save(path)
    return path


def seen(photo, network):
    subject = load_subject(network)
    return observe(build_structure(subject), read_photo(photo, subject.preprocessing))


def views(observation):
    return build_document([observation], Options())


@pytest.mark.parametrize(
    ("end", "classes", "probabilities"),
    [
        (nn.Softmax(1), 4, lambda logits: logits.softmax(0)),
        (lambda x: {"p": x.softmax(-1), "x": x}, 4, lambda logits: logits.softmax(0)),
        (nn.LogSoftmax(1), 4, lambda logits: logits.softmax(0)),
        (nn.Sigmoid(), 4, torch.sigmoid),
        (lambda x: x.sigmoid()[:, 0], 1, torch.sigmoid),
    ],
    ids=["softmax", "dict", "log_softmax", "sigmoid", "one output"],
)
def test_probabilities_and_contributions_of_a_network_that_ends_in_them(photo, end, classes, probabilities):
    """Softmax of a softmax would be nearly the same for all classes, and its gradients nearly none."""
    plain, found = seen(photo, Net(classes=classes)), seen(photo, Net(end, classes))
    document = views(found)
    shown = {each["index"]: each["probability"] for each in document["views"][0]["predictions"]}
    expected = probabilities(plain.logits.double())
    assert [shown[index] for index in range(classes)] == pytest.approx(expected.tolist(), rel=1e-5)
    assert f"note.ending.{found.ending.function}" in [note["key"] for note in document["notes"]] or (
        found.ending.function == ""
    )
    if not isinstance(end, nn.LogSoftmax):
        assert torch.equal(found.logits, plain.logits) and found.target == plain.target
        torch.testing.assert_close(found.contributions[0], plain.contributions[0])


def test_a_softmax_over_something_else_is_no_probability(photo):
    observation = seen(photo, Net(lambda x: x.unflatten(1, (2, 2)).softmax(2).flatten(1)))
    assert observation.ending.function == "" and torch.equal(observation.logits, observation.values.result[0])


def test_the_bias_of_a_second_head_is_not_that_of_the_class(photo):
    class Heads(Net):
        def forward(self, x):
            maps = nn.functional.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)
            return {"logits": self.fc(maps), "other": nn.functional.linear(maps, self.fc.weight, self.fc.bias + 100)}

    shown = views(seen(photo, Heads()))["views"][0]["evidence"]["classes"][0]
    assert shown["sum"] + shown["bias"] == pytest.approx(shown["logit"], abs=1e-4)


def test_a_network_without_operations_is_refused():
    class Constant(Net):
        def forward(self, x):
            return self.fc.bias[None].expand(len(x), 4)

    with pytest.raises(UsageError, match="runs no operation"):
        build_structure(load_subject(Constant()))


@pytest.mark.parametrize("name", ["bad\udcff.png", '{"$": 0}.png', "{name}{photo}.png"])
def test_any_name_of_a_file(photo, name):
    path = photo.parent / name
    path.write_bytes(photo.read_bytes())
    document = views(seen(path, Net()))
    assert packed_bytes(document) > 0
    assert name.encode("utf-8", "backslashreplace") in page_bytes(document["views"][0]["photo"]["name"])


def test_shared_parts_hold_no_references():
    long = "m" * 300
    networks = [{"name": str(index), "parts": [{"id": long, "name": long}]} for index in range(2)]
    packed, shared = pack({"networks": networks})
    at = packed["networks"][0]["parts"]["$"]
    assert packed["networks"][1]["parts"] == {"$": at} and shared[at] == networks[0]["parts"]


def test_a_pipe_is_no_place_for_a_page(tmp_path):
    os.mkfifo(tmp_path / "page.html")
    with pytest.raises(UsageError, match="is a pipe or device"):
        check_page_path(tmp_path / "page.html")


def test_a_page_that_cannot_be_made_is_not_one_that_cannot_be_written(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(exploration, "render_page", lambda document: (_ for _ in ()).throw(OSError("no script")))
    with pytest.raises(OSError, match="no script"):
        exploration.Exploration({}).save(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists() and explore_page.MARKER


def test_photos_that_disappear_while_they_are_searched_are_named(photo, tmp_path, monkeypatch):
    structure = build_structure(load_subject(Net()))
    part = next(part for part in structure.parts.values() if len(part.shape) == 3)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(photo.read_bytes())

    def progress(what, *_):
        if what == "photos: patches":
            (folder / "a.png").unlink(missing_ok=True)

    found = find_patches(structure, {part.id: [0]}, photos_below(folder), folder, progress)
    assert found.photos == ["b.png"] and found.searched == 1
    assert [note.values["photos"] for note in found.notes] == [["a.png"]]


def test_a_network_for_one_image_at_a_time_has_patches(photo):
    class One(Net):
        def forward(self, x):
            return self.fc(self.conv(x).reshape(1, 6, -1).mean(2))

    structure = build_structure(load_subject(One()))
    part = next(part for part in structure.parts.values() if part.level == "layer" and len(part.shape) == 3)
    assert len(find_patches(structure, {part.id: [0]}, [photo, photo], photo.parent).parts[part.id]["0"]) == 2


def test_a_long_list_is_short_in_a_sentence():
    assert said({"parts": list("abcde"), "count": 5}) == {"parts": "a, b, c and 2 more", "count": 5}
