"""Photos go in, classes come out; a bad photo never stops the others."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from closed_streams import without_streams
from PIL import Image
from safetensors.torch import save_file

from vertebra import create_model, get_model_weights
from vertebra.cli import _prediction as predict_module
from vertebra.cli._output import print_json
from vertebra.runtime.predictor import Predictor

PHOTOS = Path(find_spec("sklearn").origin).parent / "datasets" / "images"
CHINA, FLOWER = PHOTOS / "china.jpg", PHOTOS / "flower.jpg"


@pytest.fixture
def checkpoint(tiny_registry, tmp_path_factory):
    """A tiny network of three classes, saved by its user; with it names are those of tiny networks."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.manual_seed(0)
    torch.save(create_model("resnet18", num_classes=3).state_dict(), path)
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


def test_more_photos_than_a_batch_keep_their_order(vertebra, tmp_path):
    photos = [str(FLOWER), str(CHINA), str(tmp_path / "none.jpg"), str(FLOWER), str(CHINA)]
    results = vertebra("predict", *photos, "--top", 1, "--batch", 2, "--json").json
    assert [result["path"] for result in results] == photos
    assert [result["error"] is None for result in results] == [True, True, False, True, True]
    classes = [result["predictions"][0]["class"] for result in results if result["predictions"]]
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


def test_of_a_strip_the_middle_is_predicted(vertebra, tmp_path):
    """A strip of one pixel's height would be millions of pixels wide once its height is the network's."""
    for path, sides in ((tmp_path / "strip.png", "black"), (tmp_path / "middle.png", "white")):
        strip = Image.new("L", (2_000_000, 1), sides)
        strip.paste("white", (999_900, 0, 1_000_100, 1))
        strip.save(path)
    one, other = vertebra("predict", tmp_path / "strip.png", tmp_path / "middle.png", "--json").json
    assert one["error"] is None
    assert one["predictions"] == other["predictions"]


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


def test_weights_by_name(vertebra):
    (entry,) = vertebra("predict", FLOWER, "--weights", "EfficientNet_Lite0_Weights.IMAGENET1K_V1", "--json").json
    assert entry["predictions"][0]["class"] == "daisy"


def test_missing_weight_file(vertebra, tmp_path):
    result = vertebra("predict", FLOWER, "--weights", tmp_path / "none.pth")
    assert result.code == 1
    assert "none.pth" in result.error


def test_a_file_of_one_s_own(vertebra, checkpoint, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(torch.load(checkpoint, weights_only=True), path)
    results = []
    for source in (checkpoint, path):
        (entry,) = vertebra("predict", FLOWER, "--model", "resnet18", "--weights", source, "--json").json
        assert sorted(prediction["class"] for prediction in entry["predictions"]) == ["0", "1", "2"]
        assert math.isclose(sum(prediction["probability"] for prediction in entry["predictions"]), 1, rel_tol=1e-5)
        results.append(entry)
    assert results[0] == results[1]


def test_weights_of_another_network(vertebra, checkpoint):
    result = vertebra("predict", FLOWER, "--model", "vgg11", "--weights", checkpoint)
    assert result.code == 1
    assert str(checkpoint) in result.error


def test_weights_without_a_classifier(vertebra):
    result = vertebra("predict", FLOWER, "--model", "vgg16", "--weights", "IMAGENET1K_FEATURES")
    assert result.code == 2
    assert "VGG16_Weights.IMAGENET1K_V1" in result.error


def test_weights_that_give_no_numbers(vertebra, checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    name = list(state)[-1]
    state[name] = torch.full_like(state[name], float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    result = vertebra("predict", FLOWER, "--model", "resnet18", "--weights", tmp_path / "nan.pth")
    assert result.code == 1
    assert "nan.pth" in result.error


def test_json_survives_any_file_name(capsys):
    """A name that is no UTF-8 reaches Python as lone surrogates."""
    print_json({"path": "caf\udce9 gr\u00fcn.jpg"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"path": "caf\udce9 gr\u00fcn.jpg"}


def test_an_empty_name_is_no_folder(vertebra):
    result = vertebra("predict", "")
    assert result.code == 2
    assert "PHOTO argument is empty" in result.error


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


@pytest.mark.parametrize("count", [1, 9])
def test_names_cannot_forge_a_line(vertebra, write_model, tmp_path, count):
    forged = "\n 99.9%  dog  all.png"
    model = write_model(tmp_path / "tiny.onnx", classes=[f"{name}{forged}" for name in "abc"])
    paths = [tmp_path / f"{number}{forged}" for number in range(count)]
    for path in paths:
        Image.new("RGB", (40, 40)).save(path, "png")
    result = vertebra("predict", *paths, tmp_path / f"none{forged}", "--model", model)
    lines = result.out.splitlines()
    assert len(lines) == (4 if count == 1 else count) and not [line for line in lines if line.startswith(" 99.9%")]
    assert lines[0].startswith(f"{tmp_path}/0\\n 99.9%") or "\\n 99.9%  dog  all.png  " in lines[0]
    missing, failed = result.err.splitlines()
    assert missing.startswith(f"vertebra: {tmp_path}/none\\n 99.9%") and failed.startswith("vertebra: 1 of ")
    out = tmp_path / f"{forged}.csv"
    done = vertebra("predict", paths[0], "--model", model, "--out", out)
    again = vertebra("predict", paths[0], "--model", model, "--out", out)
    assert len(done.out.splitlines()) == len(again.err.splitlines()) == 1


# --- many photos, and results in files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve small photos, one of them broken."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(12):
        Image.new("RGB", (40 + index, 40), (20 * index, 90, 255 - 20 * index)).save(folder / f"{index:02}.png")
    (folder / "05.png").write_bytes(b"nothing")
    return folder


def test_one_line_a_photo_where_there_are_many(vertebra, tiny_model, folder):
    result = vertebra("predict", folder, "--model", tiny_model)
    assert result.code == 1
    lines = result.out.splitlines()
    assert len(lines) == 11
    percent, name, path = lines[0].split()
    assert percent.endswith("%") and name in ("cat", "dog", "fish") and path == str(folder / "00.png")
    assert "05.png" in result.err and "1 of 12 photos" in result.err


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_results_into_a_file_and_on(vertebra, tiny_model, folder, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    first = [folder / f"{index:02}.png" for index in range(5)]
    result = vertebra("predict", *first, "--model", tiny_model, "--out", out, "--top", 2)
    assert result.code == 0 and f"{out}: 5 photos in" in result.out and "images/s" in result.out
    result = vertebra("predict", folder, "--model", tiny_model, "--out", out, "--top", 2, "--resume")
    assert result.code == 1
    assert f"{out}: 12 photos, 1 failed; 7 now in" in result.out and "(5 were there already)" in result.out
    assert f"1 of 12 photos could not be classified. Their column 'error' in {out} says why" in result.error
    # The whole file counts, however little this run adds.
    result = vertebra("predict", folder, "--model", tiny_model, "--out", out, "--top", 2, "--resume")
    assert result.code == 1 and "(12 were there already, 1 of them made again)" in result.out
    assert f"{out}: 12 photos, 1 failed; 1 now in" in result.out and "1 of 12 photos" in result.error
    assert "earlier run" not in result.err
    if suffix == "csv":
        lines = out.read_text().splitlines()
        assert lines[0] == "path,class_1,probability_1,class_2,probability_2,error"
        assert [line.split(",")[0] for line in lines[1:]] == [str(folder / f"{index:02}.png") for index in range(12)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_of_an_earlier_run_are_not_replaced_without_a_word(vertebra, tiny_model, folder, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    first = [folder / f"{index:02}.png" for index in range(3)]
    told = [vertebra("predict", *first[:n], "--model", tiny_model, "--out", out).err for n in (3, 1, 2)]
    said = f"vertebra: {out} had {{}} of an earlier run, which this one replaces; --resume keeps them.\n"
    assert told == ["", said.format("3 rows"), said.format("1 row")]
    assert len(read_rows(out)) == 2


def read_rows(path):
    """(path, class, error) of each row."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [(row["path"], row["class_1"], row["error"]) for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
        return [(row["path"], (row["predictions"] or [{}])[0].get("class", ""), row["error"] or "") for row in found]
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(path).to_pylist()
    return [(row["path"], row["class_1"] or "", row["error"] or "") for row in found]


@pytest.fixture
def messy(tmp_path):
    """Photos with names that a table must quote or that are no Unicode; three are broken. The names, sorted."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [
        b"1, 2.png",
        b'3 "best".png',
        b"4 two\nlines.png",
        b"5 caf\xe9.png",
        "6 grün.png".encode(),
        b"7\\8.png",
        b"9.png",
    ]
    for index, name in enumerate(names):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        if index in (1, 2, 3):
            path.write_bytes(b"not yet copied")
        else:
            Image.new("RGB", (40, 40), (30 * index, 90, 200)).save(path)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_photos_that_were_repaired_are_tried_again(vertebra, tiny_model, messy, tmp_path, suffix):
    out, again = tmp_path / f"out.{suffix}", tmp_path / f"again.{suffix}"
    command = ["predict", messy[0].parent, "--model", tiny_model, "--top", 1]
    result = vertebra(*command, "--out", out)
    assert result.code == 1 and f"{out}: 7 photos, 3 failed, in" in result.out and "3 of 7 photos" in result.error
    for broken in messy[1:3]:
        Image.new("RGB", (40, 40), (200, 30, 30)).save(broken)
    result = vertebra(*command, "--out", out, "--resume")
    assert result.code == 1 and f"{out}: 7 photos, 1 failed; 3 now in" in result.out
    assert "1 of 7 photos" in result.error
    Image.new("RGB", (40, 40), (30, 200, 30)).save(messy[3])
    result = vertebra(*command, "--out", out, "--resume")
    assert result.code == 0 and f"{out}: 7 photos; 1 now in" in result.out
    result = vertebra(*command, "--out", out, "--resume")
    assert result.code == 0 and f"{out}: 7 photos (7 were there already)" in result.out
    # As a run that was never interrupted has them, in its order.
    assert vertebra(*command, "--out", again).code == 0
    assert read_rows(out) == read_rows(again) and len(read_rows(out)) == 7


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_killed_in_the_middle_of_a_line(vertebra, tiny_model, messy, tmp_path, suffix):
    out, whole = tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    command = ["predict", messy[0].parent, "--model", tiny_model, "--top", 1]
    vertebra(*command, "--out", whole)
    vertebra(*command, "--out", out)
    content = out.read_bytes()
    for broken in messy[1:3]:
        Image.new("RGB", (40, 40), (200, 30, 30)).save(broken)
    vertebra(*command, "--out", whole)
    for cut in (10, content.index(b"two") + 4, len(content) - 3):
        out.write_bytes(content[:cut])
        result = vertebra(*command, "--out", out, "--resume")
        assert result.code == 1 and f"{out}: 7 photos, 1 failed" in result.out, cut
        assert read_rows(out) == read_rows(whole)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_of_another_model_are_not_added(vertebra, tiny_model, write_model, folder, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    other = write_model(tmp_path / "tiny.onnx", seed=1)
    first = ["predict", folder / "00.png", "--out", out]
    assert vertebra(*first, "--model", tiny_model).code == 0
    before = out.read_bytes()
    on = ["predict", folder, "--out", out, "--resume"]
    for options, said in (
        (["--model", other], "by the model"),
        (["--model", tiny_model, "--top", 1], "with --top 3, and this run is with --top 1"),
        (["--model", tiny_model, "--embed"], "without --embed"),
        (["--model", tiny_model, "--fast-jpeg"], "without --fast-jpeg"),
        (["--model", tiny_model, "--bits", 12], "without --bits, and this run is with --bits 12"),
    ):
        result = vertebra(*on, *options)
        assert result.code == 2 and said in result.error and "cannot be resumed" in result.error
        assert out.read_bytes() == before
    # 5 classes of 3 are 3, as 9 are; the same file in another place is the same model.
    other.write_bytes(tiny_model.read_bytes())
    result = vertebra(*on, "--model", other, "--top", 9)
    assert result.code == 1 and "12 photos, 1 failed" in result.out


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_another_engine_goes_on_and_is_told(vertebra, tiny_model, folder, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    first = [folder / f"{index:02}.png" for index in range(2)]
    command = ["predict", *first, "--model", tiny_model, "--out", out]
    said = f"vertebra: {out} was begun with --engine onnxruntime, and goes on with --engine auto: probabilities of two"
    assert vertebra(*command, "--engine", "onnxruntime").code == 0
    assert vertebra(*command, "--resume").err == ""  # nothing is left to do
    result = vertebra(*command, folder / "02.png", "--resume")
    assert result.code == 0 and result.err.count(said) == 1
    result = vertebra(*command, folder / "03.png", "--resume", "--engine", "onnxruntime")
    assert result.code == 0 and result.err == ""
    if suffix == "csv":  # a record of an older version
        record = out.with_name("out.csv.meta.json")
        record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "engine"}))
        result = vertebra(*command, folder / "04.png", "--resume")
        assert result.code == 0 and result.err == ""


def test_other_weights_are_another_model(vertebra, checkpoint, tmp_path):
    out = tmp_path / "out.csv"
    state = torch.load(checkpoint, weights_only=True)
    name = list(state)[-1]
    torch.save(state | {name: state[name] + 1}, tmp_path / "mine.pth")
    command = ["predict", FLOWER, "--model", "resnet18", "--out", out]
    assert vertebra(*command, "--weights", checkpoint).code == 0
    result = vertebra(*command, "--weights", tmp_path / "mine.pth", "--resume")
    assert result.code == 2 and "by the model resnet18" in result.error


def test_a_file_of_an_older_version_is_not_resumed(vertebra, tiny_model, folder, tmp_path):
    out = tmp_path / "out.csv"
    command = ["predict", folder / "00.png", "--model", tiny_model, "--out", out]
    vertebra(*command)
    (tmp_path / "out.csv.meta.json").unlink()
    result = vertebra(*command, "--resume")
    assert result.code == 2 and "out.csv.meta.json to say by which model" in result.error
    assert vertebra(*command).code == 0


def test_photos_that_are_gone_keep_their_rows(vertebra, tiny_model, messy, tmp_path):
    out = tmp_path / "out.csv"
    good, bad = messy[4], messy[1]
    command = ["predict", good, bad, "--model", tiny_model, "--out", out]
    assert vertebra(*command).code == 1
    good.unlink()
    bad.unlink()
    result = vertebra(*command, "--resume")
    assert result.code == 1 and "1 of 2 photos" in result.error
    (_, kind, error), (_, _, gone) = read_rows(out)
    assert kind and not error and "no such file" in gone
    Image.new("RGB", (40, 40)).save(bad)
    result = vertebra("predict", bad, "--model", tiny_model, "--out", out, "--resume")
    assert result.code == 0 and "1 of them not given now" in result.out


def test_a_table_of_labels_is_not_replaced_by_results(vertebra, tiny_model, folder, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n00.png,cat\n")
    result = vertebra("predict", folder, "--model", tiny_model, "--out", labels)
    assert result.code == 2 and "labels.csv is not a file that this command has written" in result.error
    assert labels.read_text() == "path,label\n00.png,cat\n"


def test_embeddings(vertebra, tiny_model, folder, tmp_path):
    (entry,) = vertebra("predict", folder / "00.png", "--model", tiny_model, "--json", "--embed").json
    assert len(entry["embedding"]) == 8
    result = vertebra("predict", folder / "00.png", "--model", tiny_model, "--embed")
    assert result.code == 2 and "Add --json or --out FILE" in result.error


def test_resume_needs_a_file(vertebra, tiny_model, folder):
    result = vertebra("predict", folder, "--model", tiny_model, "--resume")
    assert result.code == 2 and "--out FILE" in result.error


def test_a_list_on_standard_input(tiny_model, folder):
    names = "\n".join(str(folder / f"{index:02}.png") for index in range(4))
    done = subprocess.run(
        [sys.executable, "-m", "vertebra", "predict", "-", "--model", str(tiny_model), "--json"],
        input=names,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [entry["path"] for entry in json.loads(done.stdout)] == names.splitlines()


def test_a_pattern(vertebra, tiny_model, folder):
    result = vertebra("predict", f"{folder}/0[0-2].png", f"{folder}/no*.png", "--model", tiny_model, "--json")
    assert [Path(entry["path"]).name for entry in result.json] == ["00.png", "01.png", "02.png", "no*.png"]
    assert "no file matches" in result.json[3]["error"]


@pytest.mark.parametrize("pattern", ["phot0s/*.png", "phot0s/**/0?.png", "phot0s/below/*"])
def test_a_pattern_in_a_mistyped_folder(vertebra, tiny_model, tmp_path, pattern):
    (tmp_path / "photos").mkdir()
    result = vertebra("predict", tmp_path / pattern, "--model", tiny_model)
    assert result.code == 1
    assert f"{tmp_path}/{pattern}: no file matches. Did you mean 'photos'?\n" in result.err
    result = vertebra("predict", tmp_path / "photo*" / "*.png", "--model", tiny_model)
    assert f"{tmp_path}/photo*/*.png: no file matches\n" in result.err


def test_unsure_is_said(vertebra, write_model, tmp_path):
    model, photo = write_model(tmp_path / "m.onnx", threshold=1.0), FLOWER
    assert vertebra("predict", photo, "--model", model, "--json").json[0]["unsure"] is True
    assert "unsure" in vertebra("predict", photo, "--model", model).out
    assert "unsure" in vertebra("predict", *[photo] * 9, "--model", model).out.splitlines()[0]
    vertebra("predict", photo, "--model", model, "--out", tmp_path / "o.csv", "--top", 1)
    assert (tmp_path / "o.csv").read_text().splitlines()[0] == "path,class_1,probability_1,unsure,error"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "mmn"], "Did you mean 'mnn'"),
        (["--out", "results.txt"], ".csv or .jsonl or .parquet"),
        (["--top", "0"], "--top"),
        (["--batch", "0"], "--batch"),
        (["--weights", "IMAGENET1K_V1"], "already has weights"),
    ],
)
def test_options_that_are_not_allowed(vertebra, tiny_model, folder, options, message):
    result = vertebra("predict", folder, "--model", tiny_model, *options)
    assert result.code == 2
    assert message in result.error


def test_a_file_without_a_card(vertebra, folder, write_model, tmp_path):
    result = vertebra("predict", folder, "--model", write_model(tmp_path / "m.onnx", card=""))
    assert result.code == 1
    assert "without a card" in result.error


def test_coarse_decoding_changes_little(vertebra, tmp_path):
    Image.open(FLOWER).resize((2560, 1708), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    exact, coarse = (
        vertebra("predict", tmp_path / "large.jpg", "--json", *options).json[0]["predictions"]
        for options in ([], ["--fast-jpeg"])
    )
    assert exact[0]["class"] == coarse[0]["class"] == "daisy"
    assert exact[0]["probability"] != coarse[0]["probability"]
    assert math.isclose(exact[0]["probability"], coarse[0]["probability"], abs_tol=0.1)


def test_a_mistyped_photo(vertebra, tiny_model, folder):
    (folder / "ladybird.jpg").touch()
    result = vertebra("predict", folder / "ladybrid.jpg", "--model", tiny_model)
    assert (result.code, result.err.splitlines()[0]) == (
        1,
        f"vertebra: {folder}/ladybrid.jpg: no such file. Did you mean 'ladybird.jpg'?",
    )


def test_a_mistyped_photo_among_others(vertebra, tiny_model, folder):
    (folder / "ladybird.jpg").touch()
    photo = next(folder.glob("*.png"))
    several = vertebra("predict", folder / "ladybrid.jpg", photo, "--model", tiny_model)
    assert f"{folder}/ladybrid.jpg: no such file. Did you mean 'ladybird.jpg'?" in several.err
    wrong = vertebra("predict", folder.with_name(f"{folder.name}s") / "1.png", "--model", tiny_model)
    assert f"1.png: no such file. Did you mean {folder.name!r}?" in wrong.err


def test_a_network_in_the_place_of_a_photo(vertebra, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = vertebra("predict", "resnet18", "--model", tiny_model)
    assert result.err.splitlines()[0] == (
        "vertebra: resnet18: no such file. A photo is expected here; the network of that name is given as the model "
        "(--model resnet18)."
    )


def test_a_web_address_needs_no_cluster(vertebra, tiny_model):
    found = vertebra("predict", "http://127.0.0.1:9/photo.jpg", "--model", str(tiny_model))
    assert found.code == 1 and "127.0.0.1:9/photo.jpg cannot be fetched" in found.err
    for arguments in (["s3://bucket/a.jpg"], ["photo.jpg", "--out", "s3://bucket/a.csv"]):
        found = vertebra("predict", *arguments, "--model", str(tiny_model))
        assert found.code == 2 and "Add --ray" in found.err


def test_progress_on_a_terminal(vertebra, tiny_model, folder, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = vertebra("predict", folder, "--model", tiny_model)
    assert len(result.out.splitlines()) == 11


@pytest.mark.parametrize("place", [(predict_module, "_write_results"), (Predictor, "predict_many")])
def test_a_run_that_is_stopped_says_how_it_goes_on(vertebra, tiny_model, folder, tmp_path, monkeypatch, place):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(*place, stopped)
    result = vertebra("predict", folder, "--model", tiny_model, "--out", tmp_path / "x.csv")
    assert result.code == 130
    assert "Resume with the same command and --resume." in result.err


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
def test_closed_standard_streams_are_no_error(vertebra, tiny_model, folder, tmp_path):
    command = ["predict", folder, folder / "none.png", "--model", tiny_model]
    assert vertebra(*command, "--out", tmp_path / "whole.csv").code == 1
    for streams in (">&-", "2>&-", "<&- >&- 2>&-"):
        out = tmp_path / "out.csv"
        done = without_streams(streams, *command, "--out", out)
        assert done.returncode == 1 and ("'error' in" in done.stderr) == ("2>&-" not in streams), done.stderr
        assert out.read_text() == (tmp_path / "whole.csv").read_text()
        out.unlink()
    assert without_streams(">&-", "predict", folder / "00.png", "--model", tiny_model).returncode == 0
    assert "%" in without_streams("2>&-", "predict", folder / "00.png", "--model", tiny_model).stdout


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize("command", ["predict", "explore"])
def test_a_list_or_photo_on_a_closed_standard_input(tiny_model, command):
    done = without_streams("<&-", command, "-", "--model", tiny_model if command == "predict" else "resnet18")
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "vertebra: - stands for standard input, which is closed. Pipe something into vertebra, or give files.\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_asks_to_end_says_how_it_goes_on(vertebra, tiny_model, folder, tmp_path, number):
    out = tmp_path / "x.csv"
    command = [sys.executable, "-m", "vertebra", "predict", "-", "--model", tiny_model, "--out", out, "--batch", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for path in sorted(folder.glob("*"))[:4]:
            process.stdin.write(f"{path}\n")
        process.stdin.flush()
        while process.poll() is None and not (out.is_file() and out.read_text().count("\n") > 1):
            time.sleep(0.02)
        process.send_signal(number)
        errors = process.stderr.read()
        assert process.wait(30) == 128 + number
    finally:
        process.kill()
    assert "vertebra: stopped. Resume with the same command and --resume.\n" in errors
    assert "Traceback" not in errors
    rows = out.read_text(encoding="utf-8")
    assert rows.endswith("\n")
    done = vertebra("predict", folder, "--model", tiny_model, "--out", out, "--resume", "--batch", "1")
    assert f"{rows.count(chr(10)) - 1} were there already" in done.out


def test_weights_without_their_network_hint_at_it(vertebra, checkpoint):
    result = vertebra("predict", CHINA, "--weights", checkpoint)
    assert result.code == 1
    assert result.err.count("\n") == 1 and "no EfficientNet" in result.err and "add --model NAME" in result.err


def test_what_is_left_out_of_a_folder_is_told_beside_what_fails(vertebra, tmp_path, tiny_model):
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(40))
    (tmp_path / "scan.jpg").write_bytes(b"%PDF-1.7\n")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    done = vertebra("predict", tmp_path, "--model", tiny_model)
    assert done.code == 1
    assert "scan.jpg is a PDF, not an image that is decoded here. Export its pages as images" in done.err
    assert f"vertebra: Left out, as no photos: a video, {tmp_path}/clip.mp4. Export frames as JPEG" in done.err
    (tmp_path / "scan.jpg").unlink()
    done = vertebra("predict", tmp_path, "--model", tiny_model)
    assert (done.code, done.err.count("Left out, as no photos: a video")) == (0, 1)
    for name, kind in (("clip.mp4", "a video (MP4)"), ("list.csv", "a table")):
        (tmp_path / "list.csv").write_text("path,label\na.png,cat\n")
        done = vertebra("predict", tmp_path / name, "--model", tiny_model)
        assert f"{name} is {kind}, not an image" in done.err
