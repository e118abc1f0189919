"""`vertebra explore`: two views, channels on request, and bad input."""

import json
import re
import shutil

import pytest

pytest.importorskip("torch")

from vertebra.explore import exploration
from vertebra.explore import page as explore_page
from vertebra.explore.page import MARKER


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_run, tiny_photos, tiny_registry):
    """A working folder with a run, a photo and a folder of photos; the page has no script, which may not be built."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(tiny_run)
    (tmp_path / "photos").symlink_to(tiny_photos)
    shutil.copyfile(tiny_photos / "red" / "00.png", tmp_path / "a photo.png")
    asset = explore_page._asset
    monkeypatch.setattr(explore_page, "_asset", lambda name: "" if name.startswith("static/") else asset(name))
    # Times of layers are not looked at here, and take half a second.
    monkeypatch.setattr(exploration, "time_parts", lambda structure: [])
    return tmp_path


def document(path):
    text = path.read_text()

    def stored(name):
        return re.search(rf'id="{name}">(.*?)</script>', text, re.DOTALL)[1]

    shared = json.loads(stored("shared"))
    return json.loads(
        stored("document"), object_hook=lambda value: shared[value["$"]] if "$" in value else value
    ), shared


def test_a_run_has_the_probabilities_that_predict_gives(vertebra, place):
    result = vertebra("explore", "a photo.png", "--model", "run")
    assert result.code == 0, result.err
    assert result.out == "a photo-run.html\n"
    (view,) = document(place / "a photo-run.html")[0]["views"]
    (predicted,) = vertebra("predict", "a photo.png", "--model", "run", "--json").json
    expected = {found["index"]: found["probability"] for found in predicted["predictions"]}
    shown = {found["index"]: found["probability"] for found in view["predictions"]}
    assert shown == pytest.approx(expected, abs=1e-4)


def test_two_photos_and_two_networks(vertebra, place):
    shutil.copyfile(place / "photos" / "red" / "01.png", place / "-x.png")
    result = vertebra("explore", "--model", "run", "--channels", "3", "--", "-x.png", "a photo.png")
    assert result.out == "x-a photo-run.html\n", result.err
    found, _ = document(place / "x-a photo-run.html")
    assert [view["photo"]["name"] for view in found["views"]] == ["-x.png", "a photo.png"]
    assert [view["network"] for view in found["views"]] == [0, 0] and len(found["networks"]) == 1
    maps = [seen["maps"] for id, seen in found["views"][0]["parts"].items() if "maps" in seen and "stage" in id]
    assert {len(entry["channels"]) for entry in maps} == {3}

    result = vertebra("explore", "a photo.png", "--model", "run", "--compare", "untrained", "--photos", "photos")
    assert result.out == "a photo-run-untrained.html\n", result.err
    found, shared = document(place / "a photo-run-untrained.html")
    assert [network["untrained"] for network in found["networks"]] == [False, True]
    one, other = found["views"]
    assert one["photo"] == other["photo"] and one["predictions"] != other["predictions"]
    assert one["parts"].keys() == other["parts"].keys()
    assert one["photo"]["picture"] in shared and found["networks"][0]["parts"] in shared  # stored once
    patches = found["networks"][0]["patches"]
    assert patches["pictures"] and all(part in one["parts"] for part in patches["parts"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.png"], 1, "absent.png: no such file"),
        (["a phot.png"], 1, "Did you mean 'a photo.png'?"),
        (["phots/1.png"], 1, "phots/1.png: no such file. Did you mean 'photos'?"),
        (
            ["efficientnet_lite0"],
            1,
            "the network of that name is given as the model (--model efficientnet_lite0)",
        ),
        ([""], 2, "the PHOTO is empty"),
        (["photos"], 1, "photos is a folder, not an image file"),
        (["note.txt"], 1, "note.txt"),
        (["empty.jpg"], 1, "empty.jpg"),
        (["half.png"], 1, "half.png"),
        (["https://example.org/a.jpg"], 2, "is a web address"),
        (["a photo.png", "absent.png"], 1, "absent.png: no such file"),
        (["a photo.png", "a photo.png", "--compare", "plain"], 2, "PHOTO2 and --compare are both given"),
        (["a photo.png", "--model", "resnet51"], 2, "resnet50"),
        (["a photo.png", "--weights", "none"], 2, "already has weights"),
        (["a photo.png", "--compare", "plan"], 2, "plan"),
        (["a photo.png", "--lang", "xx"], 2, "xx"),
        (["a photo.png", "--photos", "empty"], 2, "there is no photo in this folder"),
        (["a photo.png", "--photos", "absent"], 2, "does not exist"),
        (["a photo.png", "--channels", "many"], 2, "--channels is 'many'"),
        (["a photo.png", "--channels", "0"], 2, "--channels is '0'"),
        (["a photo.png", "--channels", "stem:-1"], 2, "--channels is 'stem:-1'"),
        (["a photo.png", "--channels", "layr1:0"], 2, "has no part 'layr1'"),
        (["a photo.png", "--channels", "layer1:999"], 2, "there is no 999"),
        (["a photo.png", "--html", "photos"], 2, "must end in .html"),
        (["a photo.png", "--html", "folder.html"], 2, "is a folder"),
        (["a photo.png", "--html", "foreign.html"], 2, "is no page of vertebra explore"),
        (["a photo.png", "--html", "absent/a.html"], 2, "is no folder"),
    ],
)
def test_bad_input(vertebra, place, arguments, code, message):
    (place / "note.txt").write_text("no photo")
    (place / "empty.jpg").touch()
    whole = (place / "a photo.png").read_bytes()
    (place / "half.png").write_bytes(whole[: len(whole) // 2])
    (place / "empty").mkdir()
    (place / "folder.html").mkdir()
    (place / "foreign.html").write_text("<p>mine</p>")
    before = sorted(path.name for path in place.iterdir())
    arguments = arguments if "--model" in arguments else [*arguments, "--model", "run"]
    result = vertebra("explore", *arguments)
    assert result.code == code, result.err
    assert message in " ".join(result.err.split())
    assert "Traceback" not in result.err and result.out == ""
    assert sorted(path.name for path in place.iterdir()) == before
    assert (place / "foreign.html").read_text() == "<p>mine</p>"


def test_a_page_of_before_is_replaced_and_none_is_left_half_written(vertebra, place, monkeypatch):
    (place / "page.html").write_text(f"<!doctype html>{MARKER} of before")

    def stop(path, content):
        raise KeyboardInterrupt

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    arguments = ("explore", "a photo.png", "--model", "run", "--html", "page.html")
    for failure, code, message in ((stop, 130, ""), (full, 1, "No space left on device")):
        with monkeypatch.context() as context:
            context.setattr(exploration, "write_durably", failure)
            result = vertebra(*arguments)
        assert result.code == code and message in result.err and "Traceback" not in result.err
        assert (place / "page.html").read_text().endswith("of before")
    assert vertebra(*arguments).code == 0
    assert document(place / "page.html")[0]["schema"]
