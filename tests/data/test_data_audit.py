"""What is found in a data set, and how it is told."""

import base64
import io
import json
import os
import re
import sqlite3

import numpy as np
import pytest
from PIL import Image, ImageFilter

from vertebra.card import Decoding
from vertebra.data import DataError, ImageInfo, ImageInfoCache, audit, open_dataset, read_image_info, write_page
from vertebra.data import image_info as facts_module
from vertebra.decoding import Decoded
from vertebra.errors import VertebraWarning


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))


def audited(root, **options):
    dataset = open_dataset(root)
    return dataset, audit(dataset, read_image_info(dataset), **options)


@pytest.fixture
def messy(folder, draw):
    """A folder with one of everything."""
    root = folder(cat=12, dog=12, hen=1, fish=2)
    (root / "bird").mkdir()
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "cat" / "text.jpg").write_text("hello")
    whole = root / "cat" / "cut.jpg"
    draw(77, (400, 300)).save(whole)
    whole.write_bytes(whole.read_bytes()[:5000])
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "cat" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    draw(1, (20, 18)).save(root / "dog" / "tiny.png")
    draw(2, (500, 60)).save(root / "dog" / "strip.png")
    (root / "dog" / "copy.png").write_bytes((root / "dog" / "0.png").read_bytes())
    (root / "fish" / "cat.png").write_bytes((root / "cat" / "0.png").read_bytes())
    draw(5, (300, 240)).save(root / "cat" / "large.png")
    draw(5, (300, 240)).resize((150, 120)).save(root / "cat" / "small.jpg", quality=60)
    Image.new("RGB", (50, 50), "white").save(root / "cat" / "white.png")
    Image.new("RGB", (60, 60), "white").save(root / "cat" / "white2.png")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    return root


def test_everything_is_found(messy):
    _, found = audited(messy)
    assert {b.path: b.kind for b in found.broken} == {
        "cat/cut.jpg": "damaged",
        "cat/empty.jpg": "empty",
        "cat/gone.jpg": "unreadable",
        "cat/pipe.jpg": "unreadable",
        "cat/text.jpg": "not an image",
    }
    assert {b.path: b.reason for b in found.broken}["cat/gone.jpg"] == "is missing"
    assert found.usable == found.photos - 5
    assert [photo.path for photo in found.tiny] == ["dog/tiny.png"]
    assert [(photo.path, photo.width, photo.height) for photo in found.extreme] == [("dog/strip.png", 500, 60)]
    assert [(g.paths, g.exact) for g in found.duplicates_across_labels] == [(("cat/0.png", "fish/cat.png"), True)]
    assert {(g.paths, g.exact) for g in found.groups if not g.has_different_labels} == {
        (("dog/0.png", "dog/copy.png"), True),
        (("cat/large.png", "cat/small.jpg"), False),
    }
    assert not found.duplicates_across_splits
    assert not found.case_clashes  # refused when the folder is read
    assert found.few == {"hen": 1, "bird": 0, "fish": 3}
    assert found.imbalance == 16
    assert found.others == ("cat/Thumbs.db",)
    assert len(found.problems) == 3
    with pytest.raises(
        DataError, match=r"5 photos cannot be used; 1 picture appears under.*1 class without any usable"
    ):
        found.check()
    text = "\n".join(found.lines())
    for part in (
        "cat/empty.jpg is empty",
        "bird (0)",
        "strip.png (500 × 60)",
        "imbalance 16.0",
    ):
        assert part in text
    assert "… and 3 more" in "\n".join(found.lines(max_shown=2))
    as_json = json.loads(json.dumps(found.to_dict()))
    assert as_json["groups"][0]["exact"] is True
    assert as_json["problems"] == found.problems


def test_the_page_shows_it(messy, tmp_path):
    dataset, found = audited(messy)
    (messy / "dog" / "copy.png").unlink()  # what cannot be read any more is left blank
    write_page(dataset, found, tmp_path / "audit.html")
    text = (tmp_path / "audit.html").read_text()
    assert text.count('class="shot"') == 7 + 2 + 3  # also the white and the blurred ones
    # A photo that was found twice is in the page once, and so is none that cannot be read.
    assert text.count("data:image/") == 9
    assert "Same picture, different labels: 1" in text
    assert set(re.findall(r"\w+://[^\s\"']*", text)) <= {"http://www.w3.org/2000/svg"}  # opens offline
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_page(dataset, found, tmp_path / "file" / "audit.html")


def test_the_page_shows_photos_by_the_depth_that_was_said(folder, tmp_path):
    root = folder(cat=2, dog=2)
    for name, size in (("one", (40, 40)), ("two", (40, 40)), ("tiny", (20, 20))):
        Image.fromarray(np.full(size, 3000, np.uint16)).save(root / "cat" / f"{name}.png")
    dataset, decoding = open_dataset(root), Decoding(bits=12)
    found = audit(dataset, read_image_info(dataset, decoding=decoding), decoding=decoding)
    write_page(dataset, found, tmp_path / "audit.html", decoding)
    shown = re.findall('base64,([^"]+)', (tmp_path / "audit.html").read_text())
    means = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))).mean() for each in shown]
    assert len(means) == 3 and all(abs(mean - 3000 * 255 / 4095) < 2 for mean in means)


def test_a_clean_folder(folder):
    _, found = audited(folder(cat=11, dog=12))
    assert found.problems == []
    found.check()
    assert found.lines()[-1] == "no problems found"
    assert found.imbalance == 12 / 11


def test_what_is_so_everywhere_is_no_finding(folder, draw, tmp_path):
    root = folder(cat=3, dog=3)
    for number in range(9):
        draw(900 + number, (20, 20)).save(root / "cat" / f"tiny{number}.png")
    dataset, found = audited(root)
    assert "smaller than 32 pixels: 9, most of all photos" in found.lines()
    write_page(dataset, found, tmp_path / "audit.html")
    assert "Smaller than" not in (tmp_path / "audit.html").read_text()


def test_many_findings_are_shortened(folder, draw, tmp_path):
    root = folder(cat=40, dog=40)
    for number in range(65):
        draw(900 + number, (20, 20)).save(root / "cat" / f"tiny{number}.png")
    for number in range(9):
        (root / "dog" / f"again{number}.png").write_bytes((root / "dog" / "0.png").read_bytes())
    dataset, found = audited(root)
    write_page(dataset, found, tmp_path / "audit.html")
    text = (tmp_path / "audit.html").read_text()
    assert "and 5 more" in text  # of those that are small
    assert "and 4 more" in text  # of a group
    assert "Show 48 more" in text


def test_leakage_between_splits(folder, tmp_path):
    root = tmp_path / "data"
    folder(root / "train", cat=10, dog=10)
    folder(root / "test", cat=2, dog=2)
    dataset, found = audited(root)
    assert found.splits == {"train": 20, "test": 4}
    assert len(found.duplicates_across_splits) == 2  # the same seeds draw the same first cats in both
    assert "train/cat/0.png (train)" in "\n".join(found.lines())
    write_page(dataset, found, tmp_path / "audit.html")
    # Other splits than those that the data set brings.
    assert not audit(dataset, read_image_info(dataset), splits=["train"] * 24).duplicates_across_splits


def test_nothing_usable(folder):
    root = folder(cat=1, dog=1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of its photos can be used\. The first, cat/0\.png, is empty"):
        audited(root)


def test_photos_are_decoded_once(folder, monkeypatch):
    root = folder(cat=3, dog=3)
    (root / "cat" / "bad.png").write_bytes(b"bad")
    dataset = open_dataset(root)
    calls = []
    first = read_image_info(dataset, progress=lambda task, done, total: calls.append((task, done, total)))
    assert calls[-1] == ("auditing the photos", 7, 7)
    monkeypatch.setattr(ImageInfoCache, "_decoded", None)
    (root / "cat" / "bad.png").unlink()
    (root / "dog" / "0.png").rename(root / "dog" / "renamed.png")
    again = read_image_info(open_dataset(root))
    known = [found for found in first if found.broken is None]
    assert sorted(again, key=lambda f: f.sha256) == sorted(known, key=lambda f: f.sha256)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(640, 400), (1600, 1000), (300, 300)])
def test_sizes_are_those_of_the_upright_photo(tmp_path, draw, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    draw(3, size).save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    info, picture = ImageInfoCache().examine(content, decode=True)
    assert (info.width, info.height) == (size if orientation == 1 else size[::-1])
    # A large JPEG is looked at coarsely; whoever wants the picture gets all of it.
    assert picture.size == (info.width, info.height)
    known, again = ImageInfoCache().examine(content, decode=True)
    assert (known.width, known.height) == (info.width, info.height)
    assert np.array_equal(np.asarray(again), np.asarray(picture))


def test_a_cache_that_cannot_be_used_costs_only_time(tmp_path, folder):
    dataset = open_dataset(folder(cat=2, dog=2))
    (tmp_path / "file").write_bytes(b"this is no folder")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        cache = ImageInfoCache(place)
        found = read_image_info(dataset, cache)
        assert all(isinstance(f, ImageInfo) and f.broken is None for f in found)
    assert read_image_info(dataset, ImageInfoCache(tmp_path / "good")) == found


def test_damaged_facts_and_thumbnails_are_found_anew(tmp_path, folder):
    dataset = open_dataset(folder(cat=2, dog=2))
    cache = ImageInfoCache(tmp_path)
    infos = read_image_info(dataset, cache)
    photo = dataset.photos[0]
    thumbnail = cache.thumbnail(infos[0].sha256, photo.path)
    for name, column, value in (("facts", "width", 9999), ("thumbnails", "greys", b"short")):
        with sqlite3.connect(tmp_path / f"{name}.sqlite") as database:
            database.execute(f"UPDATE {name} SET {column} = ?", [value])
    again = ImageInfoCache(tmp_path)
    with pytest.warns(VertebraWarning, match=r"thumbnails\.sqlite is damaged"):
        assert np.array_equal(again.thumbnail(infos[0].sha256, photo.path), thumbnail)
    with pytest.warns(VertebraWarning, match=r"facts\.sqlite is damaged") as told:
        assert read_image_info(dataset, again) == infos
    assert len(told) == 1


def test_a_file_that_cannot_be_opened(folder, monkeypatch):
    from pathlib import Path

    dataset = open_dataset(folder(cat=1, dog=1))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert {f.reason for f in read_image_info(dataset)} == {"cannot be read (Permission denied)"}


@pytest.fixture
def detailed(tmp_path):
    """Photos with edges: `detailed(seed)`, of 160 × 120 pixels."""

    def make(seed):
        random = np.random.default_rng(seed)
        levels = sum(
            np.asarray(Image.fromarray(random.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((160, 120)), float)
            / n**0.7
            for n in (3, 8, 24, 60)
        )
        image = Image.fromarray((levels * 220 / levels.max()).astype(np.uint8))
        image.paste((20, 20, 20), (40, 30, 90, 80))
        image.paste((235, 235, 235), (100, 20 + seed % 50, 120, 100))
        return image

    return make


def test_flat_dark_light_and_blurred_photos_are_named(tmp_path, detailed):
    root = tmp_path / "photos"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(12):
            detailed(number + 100 * ord(label[0])).save(root / label / f"{number}.png")
    image = detailed(1)
    Image.new("RGB", (90, 90), (200, 30, 30)).save(root / "cat" / "red.png")
    image.point(lambda level: level // 8).save(root / "cat" / "lens cap.png")
    detailed(2).point(lambda level: 225 + level // 8).save(root / "cat" / "washed out.png")
    detailed(3).filter(ImageFilter.GaussianBlur(5)).save(root / "dog" / "shaken.jpg")
    detailed(4).resize((60, 45)).filter(ImageFilter.GaussianBlur(3)).save(root / "dog" / "too small to tell.png")
    _, found = audited(root)
    sections = list(found.sections.items())[8:-1]
    named = {title: [photo.path for photo in photos] for title, photos in sections if photos}
    assert named == {
        "of a single colour": ["cat/red.png"],
        "nearly black": ["cat/lens cap.png"],
        "nearly white": ["cat/washed out.png"],
        "very blurred": ["dog/shaken.jpg"],
    }
    assert found.problems == []
    assert found.findings == [f"1 photo {title}" for title in named]
    assert found.lines()[-1] == f"no problems that --strict refuses; to look at: {', '.join(found.findings)}"
    assert "very blurred: 1" in found.lines()
    assert found.to_dict()["findings"] == found.findings
    found.check()


def test_levels_are_those_of_the_picture():
    def levels(values):
        buffer = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).save(buffer, "PNG")
        info = ImageInfoCache().examine(buffer.getvalue())[0]
        return info.darkest, info.lightest, info.edge

    half = np.full((100, 100), 20)
    half[:, 50:] = 220
    assert levels(half) == (20, 220, 1.0)
    speck = np.full((100, 100), 50)
    speck[:9, :11] = 255  # less than 1 %
    assert levels(speck)[:2] == (50, 50)
    ramp = np.repeat(np.arange(0, 200, 2)[None], 100, axis=0)
    darkest, lightest, edge = levels(ramp)
    assert (darkest, lightest) in ((0, 196), (0, 198), (2, 196))
    assert edge == pytest.approx(2 / 196, abs=1e-3)


def test_copies_are_told_with_what_was_done(tmp_path, detailed):
    root = tmp_path / "photos"
    for label in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (root / label).mkdir(parents=True)
        for number in range(10):
            detailed(number + sum(map(ord, label)) * 50).save(root / label / f"{number}.png")
    image = detailed(1)
    image.save(root / "train" / "cat" / "whole.png")
    image.crop((0, 0, 140, 105)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "cat" / "part.png")
    (root / "test" / "cat" / "again.png").write_bytes((root / "test" / "cat" / "part.png").read_bytes())
    image.crop((20, 15, 160, 120)).save(root / "train" / "dog" / "other.png")
    dataset, found = audited(root)
    (group,) = found.duplicates_across_splits
    assert found.duplicates_across_labels == [group]
    assert group.paths[0] == "train/cat/whole.png"
    told = group.shown()
    assert "test/cat/part.png (mirrored, cropped, test)" in told
    assert "test/cat/again.png (mirrored, cropped, test)" in told
    assert "train/dog/other.png (cropped, train)" in told
    assert found.lines()[-1].startswith("problems that --strict refuses: 1 picture appears under different labels")
    write_page(dataset, found, tmp_path / "audit.html")
    assert "mirrored, cropped · test" in (tmp_path / "audit.html").read_text()


def test_why_a_photo_could_not_be_decoded_is_not_remembered(tmp_path, draw, monkeypatch):
    draw(1).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()

    def fail(*arguments, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", fail)
        cache = ImageInfoCache()
        info, image = cache.examine(content, decode=True)
        cache.save()
    assert (info.broken, image) == ("out of memory", None)
    assert ImageInfoCache().examine(content)[0].broken is None
    text = b"one day an image"
    assert ImageInfoCache().examine(text)[0].broken == "not an image"
    monkeypatch.setattr(facts_module, "decode", lambda *arguments, **options: Decoded(draw(2)))
    monkeypatch.setattr(facts_module.Image, "open", lambda *arguments, **options: draw(2))
    assert ImageInfoCache().examine(text)[0].broken is None


def test_a_known_photo_that_cannot_be_decoded_any_more_stops_nothing(tmp_path, draw, monkeypatch):
    draw(1).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    cache = ImageInfoCache()
    assert cache.examine(content)[0].broken is None

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    info, image = cache.examine(content, decode=True)
    assert (info.broken, image) == ("out of memory", None)


def test_facts_of_another_decoder_are_found_anew(tmp_path, draw, monkeypatch):
    draw(1).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    cache = ImageInfoCache()
    info, _ = cache.examine(content)
    cache.save()
    calls = []
    examine = ImageInfoCache._decoded
    monkeypatch.setattr(ImageInfoCache, "_decoded", lambda self, *a: calls.append(1) or examine(self, *a))
    assert ImageInfoCache().examine(content)[0] == info
    assert not calls
    monkeypatch.setattr(facts_module, "_VERSION", "3, Pillow 99")
    assert ImageInfoCache().examine(content)[0] == info
    assert calls == [1]
