"""`vertebra audit`."""

import hashlib
import html

import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    for label, colours in (("cat", ("red", "green")), ("dog", ("blue", "black"))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for colour in colours:
            Image.new("RGB", (40, 40), colour).save(tmp_path / "photos" / label / f"{colour}.png")
    return tmp_path / "photos"


def test_text_page_and_strict(vertebra, photos, tmp_path):
    done = vertebra("audit", photos, "--html", tmp_path / "a.html", "--strict")
    assert done.code == 0
    assert "4 photos in 2 classes, 4 of them usable" in done.out
    assert "no problems that --strict refuses; to look at: 2 classes with fewer than 10 photos" in done.out
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert f"vertebra audit {photos} --html {tmp_path}/a.html" in page
    hashes = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.rglob("*.png"))
    assert hashlib.sha256("\n".join(hashes).encode()).hexdigest() in page
    (photos / "cat" / "\x1b[31mbad.png").write_bytes(b"")
    done = vertebra("audit", photos)
    assert done.code == 0
    assert "\\x1b[31mbad.png is empty" in done.out
    done = vertebra("audit", photos, "--strict")
    assert done.code == 1
    assert "1 photo cannot be used" in done.error


def test_json(vertebra, photos, tmp_path):
    done = vertebra("audit", photos, "--json", "--bits", "12", "--html", tmp_path / "a b.html")
    page = html.unescape((tmp_path / "a b.html").read_text(encoding="utf-8"))
    assert f"vertebra audit {photos} --html '{tmp_path}/a b.html' --bits 12\n" in page
    assert done.json["classes"] == {"cat": 2, "dog": 2}
    assert done.json["few"] == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing",), 2, "there is no folder, table or data set 'nothing'"),
        (("{}", "--html", "a.pdf"), 2, "its name must end in .html"),
        (("{}/cat",), 1, "no photos in class folders"),
    ],
)
def test_mistakes(vertebra, photos, arguments, code, message):
    done = vertebra("audit", *(argument.format(photos) for argument in arguments))
    assert done.code == code
    assert message in done.error


def test_what_is_passed_by_and_left_out(vertebra, photos):
    for path in ("data/train/cat", "data/train/dog", "data/test/cats", "data/extra"):
        (photos / path).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 40), (len(path) * 7, number * 9, 60)).save(photos / path / f"{number}.png")
    done = vertebra("audit", photos / "data")
    assert done.code == 1
    assert "has the splits test and train and beside them extra, which are no splits" in done.error
    done = vertebra("audit", photos / "data", "--ignore", "extra")
    assert done.code == 1
    assert "the class 'cats' has photos in test and none to train on. Did you mean 'cat'?" in done.error
    done = vertebra("audit", photos / "data", "--ignore", "extra", "--allow-unseen", "--json")
    assert done.code == 0
    assert done.json["classes"] == {"cat": 2, "dog": 2}
    assert done.json["notes"] == [
        "Ignored, as asked: extra.",
        "Left out, as these classes have no photo to train on: 'cats' (2 in test).",
    ]
    done = vertebra("audit", photos / "data", "--ignore", "extra", "--ignore", "test")
    assert "Ignored, as asked: extra and test." in done.out
    done = vertebra("audit", photos / "data", "--ignore", "extras")
    assert done.code == 2
    assert "has nothing named 'extras' to ignore. Did you mean 'extra'" in done.error


def test_classes_of_which_nothing_can_be_used(vertebra, photos):
    for path in ("train/cat/1.png", "train/dog/2.png", "train/hen/3.png", "test/dog/4.png", "test/ox/5.png"):
        (photos / "data" / path).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (int(path[-5]) * 40, 90, 60)).save(photos / "data" / path)
    (photos / "data" / "train" / "ox").mkdir()
    for path in ("train/hen/3.png", "train/ox/6.png"):
        (photos / "data" / path).write_text("no photo")
    done = vertebra("audit", photos / "data")
    assert done.code == 0
    assert (
        "Training on these is refused: "
        + str(photos / "data")
        + ": the class 'ox' has photos in test and none to train "
        "on. Add some, or rename it. --allow-unseen leaves such photos out."
    ) in done.out
    done = vertebra("audit", photos / "data", "--allow-unseen")
    assert "Not learned, as no photo of it can be used: 'hen', such as train/hen/3.png." in done.out
    assert "Left out, as these classes have no photo to train on: 'ox' (1 in test)." in done.out
