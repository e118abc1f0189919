"""The patches of a folder of photos that excite channels most."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vertebra import Preprocessing
from vertebra.errors import UsageError
from vertebra.explore.observation import build_structure
from vertebra.explore.patches import BEST, find_patches, photos_below
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import load_subject, network_input

SIDE = 32


class Net(nn.Module):
    """Two convolutions, of which the first has one channel for each colour."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(3, 4, 3, 2, 1)
        self.fc = nn.Linear(4, 2)
        self.preprocessing = Preprocessing(SIDE, resize=SIDE, mean=0.0, std=1.0)
        with torch.no_grad():
            self.first.weight.zero_()
            for channel in range(3):
                self.first.weight[channel, channel] = 1 / 9

    def forward(self, x):
        return self.fc(self.second(self.first(x).relu_()).mean((2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten photos in class folders: black, with a red square whose brightness and place are each photo's own."""
    root = tmp_path_factory.mktemp("photos")
    for index in range(10):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        pixels[3 * (index % 3) * 3 :, 8:16, 0][:8] = 100 + 10 * index
        (root / f"class{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"class{index % 2}" / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def structure():
    torch.manual_seed(0)
    return build_structure(load_subject(Net()))


def layer(structure, name):
    return next(
        part.id for part in structure.parts.values() if part.level in ("stage", "block", "layer") and part.name == name
    )


def test_the_nine_photos_with_the_largest_values_one_patch_each(structure, folder):
    part = layer(structure, "first")
    photos = photos_below(folder)
    found = find_patches(structure, {part: [0]}, photos, folder)
    best = found.parts[part]["0"]
    assert len(best) == BEST
    expected = []
    for path in photos:
        pixels = read_photo(path, structure.subject.preprocessing).pixels
        with torch.no_grad():
            out = structure.subject.network.first(network_input(structure.subject, pixels))
        expected.append((float(out[0, 0].max()), str(path.relative_to(folder))))
    expected.sort(reverse=True)
    assert [found.photos[photo] for _, _, photo in best] == [name for _, name in expected[:BEST]]
    assert [value for _, value, _ in best] == pytest.approx([value for value, _ in expected[:BEST]], rel=1e-4)
    assert found.searched == 10 and found.notes == []


def test_photos_that_cannot_be_read_are_counted_and_named(structure, folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    good = next(iter(photos_below(folder)))
    found = find_patches(structure, {layer(structure, "first"): [0]}, [tmp_path / "broken.jpg", good], tmp_path)
    (note,) = found.notes
    assert note.key == "note.patches.broken"
    assert note.values == {"count": 1, "of": 2, "photos": ["broken.jpg"]}
    with pytest.raises(UsageError, match="none of the 1 photos"):
        find_patches(structure, {layer(structure, "first"): [0]}, [tmp_path / "broken.jpg"], tmp_path)


def test_channels_without_room_are_named_and_equal_patches_are_stored_once(structure, folder):
    part = layer(structure, "first")
    # Of black channels all patches are the same picture.
    same = find_patches(structure, {part: [1, 2]}, photos_below(folder), folder)
    assert len(same.pictures) < 2 * BEST
    tight = find_patches(structure, {part: [0, 1]}, photos_below(folder), folder, room=10)
    assert tight.parts == {part: {}}
    assert [note.key for note in tight.notes] == ["note.patches.left_out"]
    assert tight.notes[0].values["count"] == 2


def test_a_folder_without_photos_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("no photo")
    with pytest.raises(UsageError, match="there is no photo in this folder"):
        photos_below(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        photos_below(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="does not exist"):
        photos_below(tmp_path / "absent")
