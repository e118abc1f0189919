"""Thumbnails, and links to photos."""

import base64
import io
import os
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from vertebra.card import Decoding
from vertebra.report import PhotoLinks, Thumbnails
from vertebra.report.thumbnails import MAX_BYTES


def decoded(entry):
    return Image.open(io.BytesIO(base64.b64decode(entry[0].partition("base64,")[2])))


def test_a_small_picture_is_kept_as_it_is(photograph, tmp_path):
    path = photograph(tmp_path / "a.png", 3)
    pictures = Thumbnails(Decoding())
    assert pictures.add(path) == 0
    (entry,) = pictures.data()
    assert entry[1:] == [8, 8, 1]
    assert np.array_equal(np.asarray(decoded(entry)), np.asarray(Image.open(path)))


def test_a_large_one_takes_no_more_than_it_may(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise[:120, :160]).save(tmp_path / "noise.png")
    Image.fromarray(noise[:4]).save(tmp_path / "strip.png")
    pictures = Thumbnails(Decoding())
    for name in ("noise", "strip"):
        pictures.add(tmp_path / f"{name}.png")
    for entry, shape in zip(pictures.data(), (4 / 3, 160), strict=True):
        picture = decoded(entry)
        assert len(base64.b64decode(entry[0].partition("base64,")[2])) <= MAX_BYTES
        assert entry[1:] == [*picture.size, 0]
        assert max(picture.size) <= 160
        assert picture.width / picture.height == pytest.approx(shape, rel=0.05)


def test_each_photo_is_there_once_and_only_so_many(photograph, tmp_path, monkeypatch):
    monkeypatch.setattr("vertebra.report.thumbnails.MAX_THUMBNAILS", 2)
    paths = [photograph(tmp_path / f"{number}.png", number) for number in range(3)]
    pictures = Thumbnails(Decoding())
    assert [pictures.add(path) for path in (paths[0], paths[1], paths[0], paths[2], paths[1])] == [0, 1, 0, None, 1]
    assert pictures.num_free == 0
    assert [pictures.key(path) for path in paths] == [0, 1, None]
    paths[1].write_bytes(b"no picture")
    first, second = pictures.data()
    assert first is not None and second is None


@pytest.mark.parametrize(
    "name",
    ["plain.png", "javascript:alert(1)", "a b#c?d%e.png", "\"'<>&.png", "line\nbreak", "\udcff\udc80", "日本"],
)
def test_a_link_leads_to_its_photo_and_can_mean_nothing_else(tmp_path, name):
    photo = tmp_path / "photos" / "cat" / name
    folder = PhotoLinks(tmp_path / "run", [photo, tmp_path / "photos" / "dog" / "x.png"])
    link = folder.link(photo)
    assert link.startswith("../photos/cat/")
    assert link.isascii() and not set(link) & set(":?#<>\"'& \n")
    back = os.path.normpath(tmp_path / "run" / unquote(link, errors="surrogateescape"))
    assert Path(back) == photo
    assert folder.address == "../photos/"
    shown, own = folder.entry(photo)
    if name in ("plain.png", "日本", "a b#c?d%e.png", "javascript:alert(1)"):
        assert (shown, own) == (f"cat/{name}", None), "the page makes the address from the name"
    elif name != "\"'<>&.png":
        assert own == link
        assert shown.isprintable() and shown.isascii()


def test_photos_of_one_folder_that_is_the_page_s_own(tmp_path):
    folder = PhotoLinks(tmp_path, [tmp_path / "a.png"])
    assert folder.link(tmp_path / "a.png") == "a.png"
    assert folder.address == "./"
    assert folder.entry(tmp_path / "a.png") == ("a.png", None)
    assert PhotoLinks(tmp_path, []).address == "./"
