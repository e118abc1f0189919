"""Lite0 over input sizes, on photos with ImageNet labels."""

from PIL import Image

from vertebra.lab.pretrained_sizes import accuracy_by_size


def _folder(root, *labels):
    for number, label in enumerate(labels):
        (root / label).mkdir()
        Image.new("RGB", (70, 90), (40 * number, 90, 120)).save(root / label / "photo.png")
    return root


def test_each_size_has_a_verdict_on_each_photo(tmp_path):
    folder = _folder(tmp_path, "n01440764", "n01443537")
    (folder / "n01440764" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    found = accuracy_by_size(folder, (32, 64))
    assert list(found) == [32, 64]
    assert all(len(right) == 2 and set(right) <= {True, False} for right in found.values())


def test_other_labels_are_not_tested(tmp_path):
    assert accuracy_by_size(_folder(tmp_path, "kitten", "puppy"), (32,)) == {}
    assert accuracy_by_size(_folder(tmp_path, "n01440764", "tench"), (32,)) == {}


def test_where_no_photo_can_be_read_there_is_no_accuracy(tmp_path):
    folder = _folder(tmp_path, "n01440764", "n01443537")
    for photo in folder.glob("*/*.png"):
        photo.write_bytes(b"\x89PNG broken")
    assert accuracy_by_size(folder, (32,)) == {}
