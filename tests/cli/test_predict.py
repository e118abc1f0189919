"""Photos go in, classes come out; a bad photo never stops the others."""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vertebra import create_model, get_model_weights
from vertebra.cli import predict as predict_module
from vertebra.cli._output import print_json
from vertebra.cli.predict import Settings, predict_photos
from vertebra.errors import WeightsError

PHOTOS = Path(find_spec("sklearn").origin).parent / "datasets" / "images"
CHINA, FLOWER = PHOTOS / "china.jpg", PHOTOS / "flower.jpg"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network of three classes, saved by its user."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.manual_seed(0)
    torch.save(create_model("efficientnet_lite0", num_classes=3).state_dict(), path)
    return path


# --- ordinary ------------------------------------------------------------------------------------------------------


def test_json_has_one_object_a_photo(vertebra):
    result = vertebra("predict", CHINA, FLOWER, "--json")
    assert result.code == 0
    assert result.err == ""
    china, flower = result.json
    assert china["path"] == str(CHINA)
    assert flower["path"] == str(FLOWER)
    names = get_model_weights("efficientnet_lite0")["DEFAULT"].meta["categories"]
    for entry in result.json:
        assert list(entry) == ["path", "predictions", "error"]
        assert entry["error"] is None
        assert len(entry["predictions"]) == 5
        probabilities = [prediction["probability"] for prediction in entry["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-6
        for prediction in entry["predictions"]:
            assert list(prediction) == ["class", "index", "probability"]
            assert prediction["class"] == names[prediction["index"]]
    assert flower["predictions"][0]["class"] == "daisy"
    # The photo is of the Summer Palace's roofs.
    assert china["predictions"][0]["class"] == "palace"


def test_the_numbers_are_the_network_s(vertebra):
    weights = get_model_weights("efficientnet_lite0")["DEFAULT"]
    network = create_model("efficientnet_lite0", weights=weights).eval()
    with torch.inference_mode():
        expected = network(weights.transforms()(Image.open(FLOWER).convert("RGB"))[None]).softmax(1)[0]
    (entry,) = vertebra("predict", FLOWER, "--json", "--top", 1000).json
    assert len(entry["predictions"]) == 1000
    for prediction in entry["predictions"]:
        assert math.isclose(prediction["probability"], expected[prediction["index"]].item(), rel_tol=1e-4, abs_tol=1e-7)


def test_bars_for_people(vertebra):
    result = vertebra("predict", CHINA, FLOWER, "--top", 3)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == str(CHINA)
    assert lines[4] == str(FLOWER)
    assert len(lines) == 8
    percent, bar, name = lines[5].split()
    assert name == "daisy"
    assert len(bar) == round(float(percent.rstrip("%")) / 100 * predict_module.BAR_WIDTH)


def test_bars_where_the_terminal_knows_only_ascii(tmp_path):
    photo = tmp_path / "gr\u00fcn.jpg"
    photo.write_bytes(FLOWER.read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "vertebra", "predict", str(photo), str(tmp_path / "k\u00fchl.jpg")],
        capture_output=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 1
    title, first, *_ = done.stdout.splitlines()
    assert title.endswith(rb"gr\xfcn.jpg")
    assert first.split()[1] == b"#" * len(first.split()[1])
    assert b"hl.jpg: no such file" in done.stderr


def test_more_photos_than_a_batch_keep_their_order(tmp_path):
    photos = [str(FLOWER), str(CHINA), str(tmp_path / "none.jpg"), str(FLOWER), str(CHINA)]
    results = list(predict_photos(Settings(tuple(photos), top=1, batch_size=2)))
    assert [result.path for result in results] == photos
    assert [result.error is None for result in results] == [True, True, False, True, True]
    classes = [result.predictions[0]["class"] for result in results if result.predictions]
    assert classes == ["daisy", "palace", "daisy", "palace"]


def test_orientation_is_obeyed(vertebra, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(FLOWER).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    Image.open(FLOWER).save(tmp_path / "upright.png")
    turned, upright = vertebra("predict", tmp_path / "turned.png", tmp_path / "upright.png", "--json").json
    for left, right in zip(turned["predictions"], upright["predictions"], strict=True):
        assert left["index"] == right["index"]
        assert math.isclose(left["probability"], right["probability"], rel_tol=1e-4)


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_photos_and_nothing_else(vertebra, tmp_path):
    for name in ("b.jpg", "a.PNG", "below/c.webp", "._b.jpg", ".hidden/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / "folder.jpg").mkdir()
    result = vertebra("predict", tmp_path, "--json", "--top", 1)
    assert result.code == 0
    names = [str(Path(entry["path"]).relative_to(tmp_path)) for entry in result.json]
    assert names == ["a.PNG", "b.jpg", str(Path("below", "c.webp"))]


def test_a_folder_without_photos_is_an_error(vertebra, tmp_path):
    result = vertebra("predict", tmp_path, FLOWER, "--json")
    assert result.code == 1
    empty, flower = result.json
    assert "no photo" in empty["error"]
    assert str(tmp_path) in empty["error"]
    assert flower["error"] is None


# --- bad photos ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path):
    """Each kind of bad photo, by name."""
    whole = FLOWER.read_bytes()
    contents = {"text.jpg": b"Dear diary\n", "empty.jpg": b"", "broken.jpg": whole[: len(whole) // 2]}
    # A header that promises 60,000 × 60,000 pixels; a bitmap needs no more than that to be identified.
    contents["bomb.bmp"] = (
        (
            b"BM"
            + bytes(8)
            + (54).to_bytes(4, "little")
            + (40).to_bytes(4, "little")
            + (60_000).to_bytes(4, "little") * 2
        )
        + b"\x01\0\x18\0"
        + bytes(24)
    )
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in (*contents, "missing.jpg")}


def test_bad_photos_are_named_and_the_others_predicted(vertebra, bad):
    result = vertebra("predict", FLOWER, *bad.values(), CHINA, "--json")
    assert result.code == 1
    assert "5 of 7 photos" in result.error
    by_path = {entry["path"]: entry for entry in result.json}
    assert [entry["path"] for entry in result.json] == [str(FLOWER), *map(str, bad.values()), str(CHINA)]
    assert by_path[str(FLOWER)]["predictions"][0]["class"] == "daisy"
    assert by_path[str(CHINA)]["error"] is None
    for name, reason in [
        ("text.jpg", "text file"),
        ("empty.jpg", "empty"),
        ("broken.jpg", "truncated"),
        ("bomb.bmp", "3600000000 pixels"),
        ("missing.jpg", "no such file"),
    ]:
        entry = by_path[str(bad[name])]
        assert entry["predictions"] == []
        assert reason in entry["error"]
        assert name in entry["error"]


def test_bad_photos_for_people(vertebra, bad):
    result = vertebra("predict", bad["text.jpg"], FLOWER, bad["empty.jpg"])
    assert result.code == 1
    assert "daisy" in result.out
    text, empty, summary = result.err.splitlines()
    assert "text.jpg" in text
    assert "empty.jpg" in empty
    assert summary == "vertebra: 2 of 3 photos could not be classified."


def test_only_bad_photos(vertebra, bad):
    result = vertebra("predict", bad["empty.jpg"], "--json")
    assert result.code == 1
    assert result.json[0]["predictions"] == []


def test_a_photo_too_narrow_to_resize_is_named(vertebra, tmp_path):
    """A strip of one pixel's height would be millions of pixels wide once its height is the network's."""
    strip = tmp_path / "strip.png"
    Image.new("L", (2_000_000, 1)).save(strip)
    result = vertebra("predict", strip, FLOWER, "--json")
    assert result.code == 1
    assert "strip.png" in result.json[0]["error"]
    assert result.json[1]["error"] is None


def test_the_smallest_photo(vertebra, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    (entry,) = vertebra("predict", tmp_path / "dot.png", "--json").json
    assert entry["error"] is None


# --- models and weights ----------------------------------------------------------------------------------------------


def test_unknown_model_has_a_hint(vertebra):
    result = vertebra("predict", FLOWER, "--model", "efficientnet-lite-0")
    assert result.code == 2
    assert "'efficientnet_lite0'" in result.error


def test_unknown_weights_list_the_known(vertebra):
    result = vertebra("predict", FLOWER, "--weights", "IMAGENET1K_V7")
    assert result.code == 2
    assert "IMAGENET1K_V7" in result.error
    assert "IMAGENET1K_V1" in result.error


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "EfficientNet_Lite0_Weights.IMAGENET1K_V1"])
def test_weights_by_name(vertebra, weights):
    (entry,) = vertebra("predict", FLOWER, "--weights", weights, "--json").json
    assert entry["predictions"][0]["class"] == "daisy"


def test_missing_weight_file(vertebra, tmp_path):
    result = vertebra("predict", FLOWER, "--weights", tmp_path / "none.pth")
    assert result.code == 1
    assert "none.pth" in result.error


def test_a_file_of_one_s_own(vertebra, checkpoint):
    result = vertebra("predict", FLOWER, "--weights", checkpoint, "--json")
    (entry,) = result.json
    assert sorted(prediction["class"] for prediction in entry["predictions"]) == ["class 0", "class 1", "class 2"]
    assert math.isclose(sum(prediction["probability"] for prediction in entry["predictions"]), 1, rel_tol=1e-5)


def test_a_safetensors_file_gives_the_same(vertebra, checkpoint, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(torch.load(checkpoint, weights_only=True), path)
    results = [vertebra("predict", FLOWER, "--weights", source, "--json").json for source in (checkpoint, path)]
    assert results[0] == results[1]


def test_weights_of_another_network(vertebra, checkpoint):
    result = vertebra("predict", FLOWER, "--model", "vgg11", "--weights", checkpoint)
    assert result.code == 1
    assert str(checkpoint) in result.error


def test_weights_without_a_classifier(vertebra):
    result = vertebra("predict", FLOWER, "--model", "vgg16", "--weights", "IMAGENET1K_FEATURES")
    assert result.code == 2
    assert "VGG16_Weights.IMAGENET1K_V1" in result.error


def test_weights_that_give_no_numbers(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    name = list(state)[-1]
    state[name] = torch.full_like(state[name], float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"nan\.pth"):
        list(predict_photos(Settings((str(FLOWER),), weights=str(tmp_path / "nan.pth"))))


def test_json_survives_any_file_name(capsys):
    """A name that is no UTF-8 reaches Python as lone surrogates."""
    print_json({"path": "caf\udce9 gr\u00fcn.jpg"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"path": "caf\udce9 gr\u00fcn.jpg"}


def test_an_empty_name_is_no_folder(vertebra):
    result = vertebra("predict", "")
    assert result.code == 2
    assert "PHOTO is empty" in result.error


def test_nothing_is_fetched_for_photos_that_are_not_there(vertebra, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    result = vertebra("predict", tmp_path / "nope.jpg", "--model", "vgg19", "--json")
    assert result.code == 1
    assert "no such file" in result.json[0]["error"]


def test_a_broken_link_in_a_folder_is_named(vertebra, tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.jpg").write_bytes(FLOWER.read_bytes())
    result = vertebra("predict", tmp_path, "--json")
    assert result.code == 1
    assert "no such file" in result.json[0]["error"] and result.json[1]["error"] is None


def test_names_cannot_command_a_terminal(vertebra, tmp_path):
    path = tmp_path / "a\x1b[31m.jpg"
    path.write_bytes(FLOWER.read_bytes())
    result = vertebra("predict", path, tmp_path / "b\x1b[31m.jpg")
    assert "\x1b" not in result.out + result.err
    assert "a\\x1b[31m.jpg" in result.out and "b\\x1b[31m.jpg" in result.err
