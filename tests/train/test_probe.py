"""A run from photos to the exported classifier, and what it says of itself."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import vertebra
from vertebra.card import read_card
from vertebra.data import DataError
from vertebra.errors import UsageError
from vertebra.runtime.engine_runner import Runner
from vertebra.train import Classifier, PrecisionError, Settings, TrainError, evaluate
from vertebra.train import dataset_features as features_module


def test_what_a_run_leaves(run, shapes):
    assert {path.name for path in run.run.iterdir()} == {
        "data.csv", "metrics.json", "model.onnx", "report.html", "settings.toml", "weights.safetensors",
    }  # fmt: skip
    card = read_card(run.run / "model.onnx")
    assert card.classes == ("circle", "cross", "stripes")
    assert card.architecture == "resnet18"
    assert card.metrics[f"{shapes}, held out"]["top1"] == round(run.metrics["top1"], 4)
    assert card.temperature == run.metrics["temperature"] != 1.0
    assert len(card.weights.sha256) == 64
    assert "head trained on" in card.weights.name
    assert run.metrics["n"] == 43  # one is broken
    assert run.metrics["top1"] > 0.7
    assert Settings.from_toml(run.run / "settings.toml").folds == 3
    with (run.run / "data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 43
    assert all(len(row["sha256"]) == 64 for row in rows)
    assert "top-1" in repr(run)
    assert "43 held-out photos" in repr(run)


def test_the_file_gives_what_the_run_measured(run, shapes, tmp_path):
    found = run.predict(shapes / "circle" / "00.png", top=2)
    assert found.predictions[0]["class"] == "circle"
    assert len(list(run.predict_many([shapes / "cross" / "00.png", shapes / "cross" / "broken.png"]))) == 2
    saved = run.save(tmp_path / "shapes.onnx")
    again = vertebra.load(saved).predict(shapes / "circle" / "00.png", top=2)
    assert again.predictions == found.predictions
    with pytest.raises(UsageError, match=r"must end in \.onnx"):
        run.save(tmp_path / "shapes.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="cannot be written"):
        run.save(tmp_path / "file" / "shapes.onnx")


def test_the_weights_bring_the_run_s_card(run):
    from dataclasses import replace

    from vertebra.export import prepare

    assert replace(prepare(run.run / "weights.safetensors").card, created=run.card.created) == run.card


def test_the_weights_are_an_ordinary_checkpoint(run, shapes):
    import torch

    from vertebra.decoding import open_image
    from vertebra.models import get_model_weights

    network = vertebra.create_model("resnet18", weights=str(run.run / "weights.safetensors"), num_classes=3).eval()
    transform = get_model_weights("resnet18").DEFAULT.transforms(resize_size=run.card.preprocessing.resize_size)
    with torch.inference_mode():
        logits = network(transform(open_image(shapes / "cross" / "01.png")).unsqueeze(0))[0]
    probabilities = (logits / run.card.temperature).softmax(0)
    for entry in run.predict(shapes / "cross" / "01.png", top=3).predictions:
        assert probabilities[entry["index"]].item() == pytest.approx(entry["probability"], abs=1e-4)


def test_what_there_is_to_know_of_the_photos(run):
    of_weights, *notes = run.metrics["notes"]
    assert "does not say how its network was trained; assumed: size 224, resize 256" in of_weights
    assert notes == [
        "Left out: a photo that cannot be used, cross/broken.png, which is empty.",
        "Only 43 photos were held out, so these shares say little.",
    ]
    assert "top-5" not in run.report.read_text()  # of three classes
    assert ">Confusion matrix</h2>" in run.report.read_text()


def test_the_report_is_whole_and_opens_offline(run):
    text = run.report.read_text()
    for part in ("Calibration and threshold", "Suspicious labels", "cannot be used", "broken.png", "Regularisation"):
        assert part in text
    assert "data:image/png;base64," in text
    assert not re.search(r'src="|(src|href)="\w+:(?!,)', text)
    card = run.card
    for part in (card.content_sha256, card.weights.sha256, f"--config {run.run}/settings.toml", "5.0"):
        assert part in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    for place, link in enumerate(data["held"]["shown"]):
        assert (run.run / data["held"]["root"] / link).is_file(), place


def test_a_second_run_computes_nothing_again(run, shapes, small_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "call", None)
    (shapes / "cross" / "00.png").rename(shapes / "cross" / "renamed.png")
    try:
        again = vertebra.train(shapes, tmp_path / "run", model="resnet18", weights=str(small_weights), folds=3)
    finally:
        (shapes / "cross" / "renamed.png").rename(shapes / "cross" / "00.png")
    assert again.metrics["computed"] == 0
    assert again.metrics["n"] == 43
    assert again.metrics["nll"] == pytest.approx(run.metrics["nll"], rel=1e-2)


def test_data_with_a_test_split(shapes, small_weights, tmp_path):
    rows = [("path", "label", "split")]
    for path in sorted(shapes.rglob("*.png")):
        rows.append((str(path), path.parent.name, "test" if path.stem in ("00", "01", "02") else "train"))
    (tmp_path / "list.csv").write_text("\n".join(",".join(row) for row in rows))
    run = vertebra.train(tmp_path / "list.csv", tmp_path / "run", model="resnet18", weights=str(small_weights), folds=3)
    assert run.metrics["n"] == 9
    assert run.metrics["held_out"] == "the test photos"
    found = evaluate(run.run, tmp_path / "list.csv")
    assert found.held.metrics.n == 9
    assert found.held.metrics.top1 == run.metrics["top1"]
    assert found.trained_on == 0
    assert found.notes == [
        "The test photos are measured, 9 of 44.",
        "Only 9 photos were measured, so these shares say little.",
    ]


def test_evaluate(run, shapes, tmp_path):
    calls = []
    found = evaluate(run.run, shapes, progress=lambda *args: calls.append(args))
    assert calls[-1] == ("predicting", 44, 44)
    assert found.held.metrics.n == 43
    assert found.trained_on == 43
    assert len(found.broken) == 1
    assert len(found.notes) == 3
    as_json = json.loads(json.dumps(found.to_dict()))
    for name in ("top1", "balanced_accuracy", "ece", "answered", "answered_right"):
        assert 0 <= as_json[name] <= 1
    assert as_json["top5"] is None  # of three classes
    low, high = as_json["answered_right_interval"]
    assert low < as_json["answered_right"] <= high
    assert as_json["n"] == 43
    found.write(tmp_path / "page.html")
    assert "trained this classifier" in (tmp_path / "page.html").read_text()
    assert run.evaluate(shapes).held.metrics.top1 == found.held.metrics.top1
    assert evaluate(run.save(tmp_path / "alone.onnx"), shapes).trained_on == 0


def test_evaluate_with_the_wrong_model_or_data(shapes, tmp_path, write_model):
    with pytest.raises(UsageError, match="no such file"):
        evaluate(tmp_path / "nothing", shapes)
    with pytest.raises(UsageError, match=r"has 3 classes that .* does not know, such as 'circle'"):
        evaluate(write_model(tmp_path / "tiny.onnx"), shapes)
    nameless = json.loads(read_card(tmp_path / "tiny.onnx").to_json()) | {"classes": None}
    with pytest.raises(UsageError, match="has no class names"):
        evaluate(write_model(tmp_path / "tiny.onnx", card=json.dumps(nameless)), shapes)


def test_folders_that_hold_no_run(tmp_path, shapes):
    with pytest.raises(UsageError, match="holds no finished run"):
        Classifier(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        vertebra.train(shapes, tmp_path)
    with pytest.raises(UsageError, match="cannot be made"):
        vertebra.train(shapes, tmp_path / "notes.txt" / "run")


def test_runs_are_numbered(tmp_path, monkeypatch, shapes):
    from vertebra.train.run_folder import default_folder

    monkeypatch.chdir(tmp_path)
    first = default_folder(str(shapes), "resnet18")
    assert first.parts[0] == "runs"
    assert first.name.endswith("-resnet18")
    assert first.is_dir()
    assert default_folder(str(shapes), "resnet18").name == f"{first.name}-2"
    assert default_folder("digits", "resnet18").name == "digits-resnet18"


def test_strict_and_too_few(shapes, shapes_without_broken, small_weights, tmp_path):
    from PIL import Image

    options = {"model": "resnet18", "weights": str(small_weights)}
    with pytest.raises(DataError, match="1 photo cannot be used"):
        vertebra.train(shapes, tmp_path / "strict", strict=True, **options)
    whole = shapes_without_broken
    with pytest.raises(PrecisionError, match=r"not reached.*The run is kept in") as caught:
        vertebra.train(whole, tmp_path / "kept", strict=True, precision=1.0, **options)
    assert caught.value.classifier.report.is_file()
    for label in "ab":
        (tmp_path / "two" / label).mkdir(parents=True)
        Image.open(shapes / "cross" / "00.png").save(tmp_path / "two" / label / "same.png")
    with pytest.raises(TrainError, match="too few different photos"):
        vertebra.train(tmp_path / "two", tmp_path / "run", **options)
    rows = [f"{path},{path.parent.name},test" for path in sorted(shapes.glob("c*/0*.png"))]
    (tmp_path / "test.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(TrainError, match=r"marks no photo for training\. Change the split"):
        vertebra.train(tmp_path / "test.csv", tmp_path / "run", **options)


def test_a_cache_that_cannot_be_used_costs_only_time(shapes, small_weights, tmp_path, monkeypatch):
    from vertebra.card import read_card
    from vertebra.data import open_dataset
    from vertebra.loading import cached_export

    body = cached_export("resnet18", str(small_weights))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(features_module, "cache_dir", lambda: tmp_path / "file")
    store = features_module.open_feature_store(body, read_card(body).preprocessing)
    assert store.get("ab" * 32) is None
    store.put("ab" * 32, np.ones(3, np.float32))
    store.save()
    assert store.get("ab" * 32).tolist() == [1, 1, 1]
    dataset = open_dataset(shapes).only(lambda photo: photo.path.stem < "02")
    seen = features_module.compute_features(dataset, body, read_card(body).preprocessing)
    assert seen.computed == 6
    assert np.abs(seen.features).max() > 0


def test_settings():
    assert Settings("x").method == "probe"
    for change, message in (
        ({"method": "prob"}, r"no method 'prob'\. Did you mean 'probe'"),
        ({"folds": 1}, "folds is 1; it must be from 2 to 50"),
        ({"precision": 1.5}, r"precision is 1\.5"),
        ({"sed": 1}, r"unknown setting 'sed'\. Did you mean 'seed'"),
        ({"seed": "x"}, "seed is 'x'; it must be of type int"),
        ({"seed": True}, "seed is True"),
        ({"strict": 1}, "strict is 1; it must be of type bool"),
    ):
        with pytest.raises(UsageError, match=message):
            Settings.from_mapping({"data": "x", **change}, "here")
    with pytest.raises(UsageError, match="does not say what to train on"):
        Settings.from_mapping({}, "here")
    assert Settings.from_mapping({"data": "x", "precision": 1}, "here").precision == 1.0


def test_settings_as_toml(tmp_path):
    settings = Settings('a "b"\\c', seed=3, strict=True)
    (tmp_path / "s.toml").write_text(settings.to_toml())
    assert Settings.from_toml(tmp_path / "s.toml") == settings
    (tmp_path / "bad.toml").write_text("= 3")
    for name, message in (("bad.toml", "is not valid TOML"), ("none.toml", "cannot be read")):
        with pytest.raises(UsageError, match=message):
            Settings.from_toml(tmp_path / name)


def test_what_is_assumed_of_weights_is_noted_in_each_run(shapes_without_broken, tmp_path):
    from vertebra import create_model
    from vertebra.errors import VertebraWarning

    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    state = dict(create_model("resnet18").state_dict())
    averaged = {name: value * 2 for name, value in state.items()}
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": state, "state_dict_ema": averaged}, path)
    for name in ("first", "cached"):
        with pytest.warns(VertebraWarning):
            run = vertebra.train(shapes_without_broken, tmp_path / name, model="resnet18", weights=str(path), folds=3)
        chosen, assumed = json.loads((run.run / "metrics.json").read_text())["notes"][:2]
        assert "an averaged copy at 'state_dict_ema', which is loaded" in chosen
        assert "mine.pth' does not say how its network was trained; assumed: size 224, resize" in assumed
        assert not any(word in assumed for word in ("classes", "temperature", "threshold"))
        assert "an averaged copy at" in (run.run / "report.html").read_text(encoding="utf-8")


def test_what_is_at_the_ends_of_photos_counts_from_many_photos_on(small_weights, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 255)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            values = random.integers(0, 256, (32, 96, 3), dtype=np.uint8)
            values[:, :24] = values[:, -24:] = level
            Image.fromarray(values).save(tmp_path / "photos" / name / f"{number}.png")
    found = {}
    for least in (20, 21):
        monkeypatch.setattr("vertebra.train.prepare._MIN_WHOLE_PHOTOS", least)
        run = vertebra.train(tmp_path / "photos", tmp_path / f"run{least}", model="resnet18", weights=small_weights)
        found[read_card(run.run / "model.onnx").preprocessing.crop_mode] = run
    whole, middle = found["squash"], found["center"]
    assert whole.metrics["top1"] == 1 and middle.metrics["top1"] < 0.9
    assert "squashed to" in whole.report.read_text() and "shorter side to" in middle.report.read_text()
    labels = [one.label for one in whole.predict_many([tmp_path / "photos" / "dark", tmp_path / "photos" / "light"])]
    assert labels == ["dark"] * 10 + ["light"] * 10
    assert evaluate(whole.run, tmp_path / "photos").held.metrics.top1 == 1
