"""`vertebra train` and `vertebra evaluate`."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("tiny_module")


@pytest.fixture(scope="module")
def place(tiny_module, tmp_path_factory):
    """Two classes of photos, and weights that need no download."""
    import torch

    from vertebra import create_model

    root = tmp_path_factory.mktemp("place")
    random = np.random.default_rng(0)
    for label, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(12):
            values = np.clip(np.array(colour) + random.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(root / "photos" / label / f"{number}.png")
    torch.manual_seed(0)
    torch.save(create_model("resnet18", weights=None).state_dict(), root / "drawn.pth")
    return root


def test_train_evaluate_predict(vertebra, place):
    done = vertebra(
        "train", place / "photos", "--out", place / "run", "--model", "resnet18", "--weights", place / "drawn.pth"
    )
    assert done.code == 0, done.err
    assert "on 24 held-out photos" in done.out
    assert "report.html" in done.out
    done = vertebra("evaluate", place / "run", place / "photos", "--html", place / "e.html")
    assert done.code == 0
    assert "top-1" in done.out
    assert "24 of these 24 photos trained this classifier" in done.out
    assert (place / "e.html").is_file()
    found = vertebra("evaluate", place / "run" / "model.onnx", place / "photos", "--json").json
    assert found["n"] == 24
    assert found["top1"] == 1.0
    done = vertebra("predict", place / "photos" / "red" / "0.png", "--model", place / "run" / "model.onnx")
    assert "red" in done.out


def detailed(seed):
    """A picture with edges, of 120 × 90 pixels."""
    random = np.random.default_rng(seed)
    levels = sum(
        np.asarray(Image.fromarray(random.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((120, 90)), float)
        / n**0.7
        for n in (3, 8, 24)
    )
    return Image.fromarray((levels * 220 / levels.max()).astype(np.uint8))


def test_copies_of_training_photos_are_told(vertebra, place, tmp_path, monkeypatch):
    for number in range(12):
        label = ("red", "blue")[number % 2]
        for folder in ("photos", "others"):
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
        image = detailed(number)
        image.save(tmp_path / "photos" / label / f"{number}.png")
        if number < 6:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mirrored.save(tmp_path / "others" / label / f"m{number}.jpg", quality=80)
        else:
            detailed(100 + number).save(tmp_path / "others" / label / f"{number}.png")
    run = tmp_path / "run"
    options = ("--out", run, "--model", "resnet18", "--weights", place / "drawn.pth")
    assert vertebra("train", tmp_path / "photos", *options).code == 0
    out = vertebra("evaluate", run, tmp_path / "others").out
    told = (
        "6 of these 12 photos show the same picture as a photo that trained this classifier, such as blue/m1.jpg and "
    )
    assert f"{told}{tmp_path / 'photos' / 'blue' / '1.png'}. So accuracy looks better than it is. Without" in out
    right = re.search(r"Without them top-1 is ([0-9.]+) % of 6\.", out)
    assert right is not None
    shutil.copy(tmp_path / "photos" / "red" / "0.png", tmp_path / "others" / "red" / "again.png")
    found = vertebra("evaluate", run, tmp_path / "others", "--json").json
    assert (found["n"], found["trained_on"], found["copies_of_trained"]) == (13, 1, 6)
    assert any(note.endswith(f"Without all of these top-1 is {right[1]} % of 6.") for note in found["notes"])
    shutil.copy(run / "model.onnx", tmp_path / "alone.onnx")
    found = vertebra("evaluate", tmp_path / "alone.onnx", tmp_path / "others", "--json").json
    assert (found["trained_on"], found["copies_of_trained"]) == (0, 0)
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos" / "blue" / "1.png").unlink()
    found = vertebra("evaluate", run, tmp_path / "others", "--json").json
    assert found["copies_of_trained"] == 5
    assert "Of the photos that trained this classifier 1 is gone or changed, so copies" in found["notes"][-1]


def test_what_was_passed_by_is_told_and_kept(vertebra, place, tmp_path):
    shutil.copytree(place / "photos", tmp_path / "photos" / "Train")
    for path in ("extra/1.png", "Train/red/@eaDir/1.png", "VAL/reds/1.png", "VAL/blue/1.png", "Train/green/1.jpg"):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".png"):
            shutil.copy(place / "photos" / "red" / "0.png", tmp_path / "photos" / path)
        else:
            (tmp_path / "photos" / path).write_text("no photo")
    (tmp_path / "photos" / "Train" / "red" / "notes.txt").write_text("")
    (tmp_path / "photos" / "Train" / "red" / "copy.png").symlink_to("0.png")
    options = ("--model", "resnet18", "--weights", place / "drawn.pth", "--out", tmp_path / "run")
    done = vertebra("train", tmp_path / "photos", *options)
    assert done.code == 1
    assert "beside them extra, which are no splits" in done.error
    done = vertebra("train", tmp_path / "photos", "--ignore", "extra", *options)
    assert done.code == 1
    assert "the class 'reds' has photos in val and none to train on. Did you mean 'red'?" in done.error
    assert not (tmp_path / "run").exists()
    done = vertebra("train", tmp_path / "photos", "--ignore", "extra", "--allow-unseen", *options)
    assert done.code == 0, done.err
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    for note in (
        "Ignored, as asked: extra.",
        "Skipped, as hidden or made by a system: Train/red/@eaDir.",
        "Links within this folder, so their photos count more than once: Train/red/copy.png → Train/red/0.png.",
        "Left out, as these classes have no photo to train on: 'reds' (1 in val).",
        "Not learned, as no photo of it can be used: 'green', such as Train/green/1.jpg.",
        "No photos, and ignored: 1 file in class folders, such as Train/red/notes.txt.",
    ):
        assert note in notes
        assert note in done.out
    kept = (tmp_path / "run" / "settings.toml").read_text()
    assert 'ignore = ["extra"]\nallow_unseen = true\n' in kept
    # The run's own table is a data set: also with links, which are files of their own.
    assert vertebra("audit", tmp_path / "run" / "data.csv", "--json").json["photos"] == 26
    assert vertebra("train", "--resume", tmp_path / "run").code == 0
    done = vertebra("evaluate", tmp_path / "run", tmp_path / "photos", "--ignore", "extra")
    assert done.code == 2
    assert "does not know, such as 'reds'; it knows blue, red. Did you mean 'red'?" in done.error
    done = vertebra("evaluate", tmp_path / "run", tmp_path / "photos", "--ignore", "extra", "--allow-unseen", "--json")
    assert done.json["n"] == 1
    assert "Left out: 1 photo of a class that the model does not know: 'reds'." in done.json["notes"]


def test_nothing_to_train_on_is_said(vertebra, place, tmp_path):
    shutil.copytree(place / "photos", tmp_path / "photos" / "test")
    options = ("--model", "resnet18", "--weights", place / "drawn.pth", "--out", tmp_path / "run")
    done = vertebra("train", tmp_path / "photos", *options)
    assert done.code == 1
    assert "marks no photo for training. Change the split of some to train; all are in test." in done.error


def test_a_cluster_that_cannot_compute_features(vertebra, place, tmp_path):
    pytest.importorskip("ray")
    weights = ("--model", "resnet18", "--weights", place / "drawn.pth")
    call = ("train", place / "photos", "--out", tmp_path / "run", *weights)
    done = vertebra(*call, "--ray", "127.0.0.1:9")
    assert done.code == 1 and "no Ray cluster can be used at 127.0.0.1:9" in done.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    done = vertebra(*call, "--method", "scratch", "--ray")
    assert done.code == 2 and "ray would do nothing: scratch starts from random weights" in done.err


def test_settings_from_a_file(vertebra, place, tmp_path):
    (tmp_path / "s.toml").write_text(f'data = "{place / "photos"}"\nmethod = "nothing"\n')
    done = vertebra("train", "--config", tmp_path / "s.toml", "--out", tmp_path / "run")
    assert done.code == 2
    assert "there is no method 'nothing'" in done.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "nothing to train on"),
        (("train", "nowhere", "--out", "{}/new"), "no folder, table or data set 'nowhere'"),
        (("evaluate", "{}", "{}"), "is no run: it has no model.onnx"),
        (("evaluate", "{}/no.onnx", "{}"), "no such file"),
        (("evaluate", "{}/begun", "{}"), "is not finished. Resume with: vertebra train --resume"),
        (("train", "{}", "--set", "ema"), "--set takes NAME=VALUE"),
        (("train", "{}", "--set", "emma=0.9"), "Did you mean 'ema'"),
        (("train", "{}", "--epochs", "3"), "epochs would do nothing"),
        (("train", "{}", "--set", "data=other"), "data is given twice"),
        (("train", "{}", "--set", "out=runs/1"), "out is not a setting. Give --out runs/1."),
        (("train", "{}", "--seed", "1", "--set", "seed = 2"), "seed is given twice: 1, and --set seed = 2. Leave one"),
        (("train", "{}", "--set", "folds=3", "--set", "folds=4"), "folds is given twice: 3, and --set folds=4."),
        (("train", "{}", "--method", "scratch", "--weights", "DEFAULT"), "weights would do nothing: scratch starts"),
        (("train", "{}", "--resume", "{}"), "takes data and folder from the run"),
        (("train", "--resume", "{}"), "holds no run"),
        (("evaluate", "{}", "{}", "--html", "x.pdf"), "must end in .html"),
    ],
)
def test_mistakes(vertebra, tmp_path, arguments, message):
    if "{}/begun" in arguments:  # elsewhere the folder is empty
        (tmp_path / "begun").mkdir()
        (tmp_path / "begun" / "settings.toml").write_text("")
    done = vertebra(*(argument.format(tmp_path) for argument in arguments))
    assert done.code == 2
    assert message in done.error


def test_12_bits_in_16(vertebra, place, tmp_path, monkeypatch, write_model):
    """Photos of 12 bits in files of 16 are to a classifier what they are in 8."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    levels = {"dark": 60, "light": 180}
    for label, level in levels.items():
        for name in ("of 8", "of 12"):
            (tmp_path / name / label).mkdir(parents=True)
        for number in range(8):
            grey = np.clip(level + random.normal(0, 30, (40, 40)), 0, 255).astype(np.uint8)
            grey[0, 0] = 255
            Image.fromarray(grey).save(tmp_path / "of 8" / label / f"{number}.png")
            deep = np.rint(grey * (4095 / 255)).astype(np.uint16)
            Image.fromarray(deep).save(tmp_path / "of 12" / label / f"{number}.png")
    told = "stay below 4,096 where white is 65,535: nearly black. If 12 bits are used, add --bits 12"
    done = vertebra("audit", tmp_path / "of 12", "--strict")
    assert done.code == 1 and told in done.out and "no problems" not in done.out
    assert "16 photos of 16-bit values with an unknown white level" in done.err
    assert vertebra("audit", tmp_path / "of 12", "--strict", "--bits", 12).code == 0
    common = ("--model", "resnet18", "--weights", place / "drawn.pth", "--set", "folds=3")
    done = vertebra("train", tmp_path / "of 12", "--out", tmp_path / "unsaid", *common, "--strict")
    assert done.code == 1 and "16 photos of 16-bit values with an unknown white level" in done.err
    done = vertebra("train", tmp_path / "of 12", "--out", tmp_path / "run", *common, "--bits", 12)
    assert done.code == 0 and "16-bit" not in done.out
    model = tmp_path / "run" / "model.onnx"
    assert "white at 4,095" in vertebra("card", model).out
    deep, shallow = (tmp_path / name / "light" / "3.png" for name in ("of 12", "of 8"))

    def predicted(photo, model, *more):
        done = vertebra("predict", photo, "--model", model, "--json", *more)
        return done.json[0]["predictions"], done

    found, done = predicted(deep, model)
    assert not done.err and found == predicted(shallow, model)[0]
    done = vertebra("evaluate", tmp_path / "run", tmp_path / "of 12")
    assert done.code == 0 and "16-bit" not in done.out
    # Another model says nothing of the depth, so what uses it does, and may be told.
    write_model(tmp_path / "other.onnx", classes=("dark", "light"))
    found, done = predicted(deep, tmp_path / "other.onnx")
    expected = predicted(shallow, tmp_path / "other.onnx")[0]
    assert told in done.error and found != expected
    found, done = predicted(deep, tmp_path / "other.onnx", "--bits", 12)
    assert not done.err and found == expected
    assert told in vertebra("evaluate", tmp_path / "other.onnx", tmp_path / "of 12").out
    assert told not in vertebra("evaluate", tmp_path / "other.onnx", tmp_path / "of 12", "--bits", 12).out
    assert vertebra("train", tmp_path / "of 12", "--bits", 17, "--out", tmp_path / "no").code == 2


# --- what can be measured, and what is said where it cannot -----------------------------------------------------------


def photos(root, counts, seed=0):
    """Photos of one colour each class, in folders; `{"red": 3}`, or `{"val/red": 3}`."""
    random = np.random.default_rng(seed)
    colours = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 40)}
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            colour = np.array(colours[folder.rpartition("/")[2]])
            # Coarse squares, so that no photo looks like another.
            squares = random.normal(0, 40, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            values = np.clip(colour + squares, 0, 255).astype(np.uint8)
            Image.fromarray(values).save(root / folder / f"{number}.png")
    return root


@pytest.fixture
def train(vertebra, place, tmp_path):
    def run(data, *options):
        weights = ("--model", "resnet18", "--weights", place / "drawn.pth")
        done = vertebra("train", data, "--out", tmp_path / "run", *weights, *options)
        path = tmp_path / "run" / "metrics.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    return run


def test_one_photo_a_class_has_no_figure(vertebra, train, tmp_path):
    done, metrics = train(photos(tmp_path / "data", {"red": 1, "blue": 1, "green": 1}))
    assert done.code == 0, done.err
    assert "top-1 not measured" in done.out
    assert "Trained on but not measured: 3 photos of blue, green, red" in done.out
    assert "100.0 %" not in done.out
    assert metrics["n"] == 0
    assert {metrics[name] for name in ("top1", "top1_interval", "balanced_accuracy", "ece", "nll", "threshold")} == {
        None
    }
    assert metrics["target"]["text"] == "target precision 0.95 not measured"
    report = (tmp_path / "run" / "report.html").read_text()
    assert "whose accuracy is not measured" in report
    assert " 100.0 %" not in report
    card = vertebra("card", tmp_path / "run" / "model.onnx").out
    assert "photos 0, top1 not measured, target precision 0.95 not measured" in card
    # What is shipped works.
    predicted = vertebra("predict", tmp_path / "data" / "red" / "0.png", "--model", tmp_path / "run" / "model.onnx")
    assert "red" in predicted.out


def test_of_a_few_classes_some_are_not_measured(train, tmp_path):
    done, metrics = train(photos(tmp_path / "data", {"red": 8, "blue": 2, "green": 1}))
    assert metrics["n"] == 10
    assert {c["name"]: c["photos"] for c in metrics["classes"]} == {"red": 8, "blue": 2, "green": 0}
    assert next(c for c in metrics["classes"] if c["name"] == "green")["recall"] is None
    assert "Trained on but not measured: 1 photo of green" in done.out
    assert "ECE not measured on 10 held-out photos" in done.out
    assert metrics["top5"] is None
    assert "classes without a photo" not in done.out  # green has been named


def test_val_photos_are_held_out_where_there_are_no_test_photos(vertebra, train, tmp_path):
    counts = {"train/red": 9, "train/blue": 9, "val/red": 2, "val/blue": 3}
    done, metrics = train(photos(tmp_path / "data", counts))
    assert "on 5 held-out photos: the val photos" in done.out
    assert metrics["held_out"] == "the val photos"
    assert metrics["n"] == 5
    table = (tmp_path / "run" / "data.csv").read_text()
    assert (table.count(",val,"), table.count(",train,")) == (5, 18)
    found = vertebra("evaluate", tmp_path / "run", tmp_path / "data", "--json").json
    assert (found["n"], found["trained_on"], found["top1"]) == (5, 0, metrics["top1"])


def test_val_photos_that_train_beside_test_photos_are_told_of(train, tmp_path):
    counts = {"train/red": 6, "train/blue": 6, "val/red": 2, "val/blue": 2, "test/red": 1}
    done, metrics = train(photos(tmp_path / "data", counts))
    assert "on 1 held-out photo: the test photos" in done.out
    assert "The 4 val photos train too" in done.out
    assert "Only 1 photo was held out" in done.out
    assert "1 of 2 classes without a photo among the held-out ones, so no metric covers them: blue" in done.out
    assert metrics["n"] == 1
    assert metrics["top1_interval"][1] - metrics["top1_interval"][0] > 0.7


def test_a_precision_that_cannot_be_reached(vertebra, train, tmp_path):
    data = photos(tmp_path / "data", {"red": 10, "blue": 10})
    from vertebra.train import PrecisionError, resume

    for number in range(4):  # labels without a rule
        (data / "red" / f"{number}.png").rename(data / "blue" / f"{number + 20}.png")
    done, metrics = train(data, "--precision", "0.99", "--strict")
    assert done.code == 1
    target = metrics["target"]
    assert (target["target"], target["reached"]) == (0.99, False)
    assert 0.3 < target["estimate"] < 0.96
    text = f"target precision 0.99 not reached: {np.floor(target['estimate'] * 100) / 100:g}"
    assert target["text"] == text
    assert f"{text}; “unsure” below {target['threshold']:.3f}: " in done.out
    assert done.error.startswith(f"vertebra: {text}. The run is kept in {tmp_path / 'run'}.")
    assert text[1:] in (tmp_path / "run" / "report.html").read_text()  # its first letter is a capital there
    card = vertebra("card", tmp_path / "run" / "model.onnx").out
    assert text in card
    assert re.search(rf"unsure below +{target['threshold']:.3f}", card)
    assert metrics["threshold"] == target["threshold"] > 0
    assert "top-1 " in done.out
    assert vertebra("train", "--resume", tmp_path / "run").code == 1  # the run is strict
    with pytest.raises(PrecisionError, match=r"target precision 0\.99 not reached") as caught:
        resume(tmp_path / "run")
    assert caught.value.classifier.metrics == metrics
    settings = tmp_path / "run" / "settings.toml"
    settings.write_text(settings.read_text().replace("strict = true", "strict = false"))
    assert vertebra("train", "--resume", tmp_path / "run").code == 0


def test_a_precision_of_nothing_answers_always(vertebra, train, tmp_path):
    done, metrics = train(photos(tmp_path / "data", {"red": 6, "blue": 6}), "--precision", "0", "--strict")
    assert done.code == 0, done.err
    assert metrics["threshold"] is None
    assert "target precision" not in done.out
    assert "unsure below" not in vertebra("card", tmp_path / "run" / "model.onnx").out
    assert "the exported classifier answers every photo" in (tmp_path / "run" / "report.html").read_text()


def test_evaluate_says_how_sure_its_figures_are(vertebra, train, tmp_path):
    train(photos(tmp_path / "data", {"red": 12, "blue": 12}))
    few = photos(tmp_path / "few", {"red": 2, "blue": 1}, seed=7)
    out = vertebra("evaluate", tmp_path / "run", few, "--html", tmp_path / "e.html").out
    assert "not measured: too few photos" in out
    assert "Only 3 photos were measured, so these shares say little." in out
    assert re.search(r"coverage +\d+\.\d %  precision (none|\d+\.\d % \(\d+\.\d – \d+\.\d\));", out)
    assert ">Calibration and threshold</h2>" in (tmp_path / "e.html").read_text()


def test_duplicates_count_once_in_intervals(vertebra, train, tmp_path):
    data = photos(tmp_path / "data", {"red": 9, "blue": 9})
    _, once = train(data)
    shutil.rmtree(tmp_path / "run")
    for path in sorted(data.rglob("*.png")):
        Image.open(path).resize((120, 120), Image.Resampling.NEAREST).save(path.with_name(f"{path.stem} large.png"))
        shutil.copy(path, path.with_name(f"{path.stem} copy.png"))
    done, metrics = train(data, "--precision", "0.97")
    assert (metrics["n"], metrics["pictures"], once["pictures"]) == (54, 18, 18)
    assert metrics["top1"] == once["top1"] == 1
    assert metrics["top1_interval"] == pytest.approx(once["top1_interval"])
    assert not metrics["target"]["reached"]  # which takes 65 different photos
    for note in (
        "The 54 photos that were held out show 18 different pictures: duplicates count once in intervals",
        "Only 18 different pictures were held out, so these shares say little.",
    ):
        assert note in done.out
    found = vertebra("evaluate", tmp_path / "run", data, "--json").json
    assert (found["n"], found["pictures"]) == (54, 18)
    assert found["top1_interval"] == pytest.approx(once["top1_interval"])
    assert found["answered_right_interval"][0] < 0.83
    assert any(note.startswith("The 54 photos that were measured show 18") for note in found["notes"])


def test_a_class_of_two_photos_is_measured(train, tmp_path):
    # Of this seed both are in one part by their lots.
    done, metrics = train(photos(tmp_path / "data", {"red": 4, "blue": 5, "green": 2}, seed=2))
    assert metrics["n"] == 11
    assert "Not measured" not in done.out


def test_a_picture_under_two_labels_is_told(train, tmp_path):
    data = photos(tmp_path / "data", {"red": 6, "blue": 6})
    Image.open(data / "red" / "3.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data / "blue" / "x.png")
    done, _ = train(data)
    assert "The same picture under different labels: 1, such as " in done.out
    assert "It is learned as each of them." in done.out


def test_evaluate_names_classes_without_a_photo(vertebra, train, tmp_path):
    train(photos(tmp_path / "data", {"red": 5, "blue": 5, "green": 5}))
    done = vertebra("evaluate", tmp_path / "run", photos(tmp_path / "other", {"red": 3}, seed=9))
    said = "2 of 3 classes without a photo among these, so no metric covers them: blue, green."
    assert said in done.out
    (tmp_path / "other" / "green").mkdir()
    (tmp_path / "other" / "lilac").mkdir()
    done = vertebra("evaluate", tmp_path / "run", tmp_path / "other")
    assert said in done.out and done.out.count("green") == 1
    assert "Folders without any photo, of no class of the model: 'lilac'." in done.out
    done = vertebra("train", "--resume", tmp_path / "run")
    assert done.out.startswith(f"{tmp_path / 'run'} is finished already. Its metrics:\ntop-1 ")
