"""What version 0.1.0 wrote is used by this one: a finished run, its exported file, and a run that was stopped.

`tests/fixtures/0.1.0` holds a tiny DenseNet on twelve pictures of each of three classes: `run`, a finished probe;
`unfinished`, a run of `--method finetune` that was stopped after its first epoch of three; `resumed.json`, what the
same version made of it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from vertebra import load

FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1.0"
WRITTEN_IN = "/tmp/fx"  # the folder that those files name


@pytest.fixture
def folder(tmp_path):
    """The fixtures beside the photos that they were made of, as if they had been written there."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    for channel, label in enumerate(("red", "green", "blue")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            random = np.random.default_rng([channel, number])
            pixels = random.integers(0, 120, (32, 40, 3), dtype=np.uint8)
            pixels[..., channel] += random.integers(60, 130, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    for path in [*tmp_path.glob("*/*.csv"), *tmp_path.glob("*/*.toml"), *tmp_path.glob("*/*.json")]:
        path.write_text(path.read_text("utf-8").replace(WRITTEN_IN, str(tmp_path)), "utf-8")
    checkpoint = tmp_path / "unfinished" / "checkpoint.safetensors"
    with safe_open(checkpoint, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        position = file.metadata()["position"].replace(WRITTEN_IN, str(tmp_path))
    save_file(tensors, checkpoint, {"position": position})  # a checkpoint without a checksum is an older one still
    return tmp_path


def test_an_exported_file_predicts(folder):
    predicted = load(folder / "run" / "model.onnx").predict(folder / "photos" / "red" / "0.png")
    assert (predicted.label, predicted.probability) == ("red", pytest.approx(0.9999223947, rel=1e-5))


@pytest.mark.usefixtures("tiny_registry")
def test_a_finished_run_is_evaluated_and_exported(folder, vertebra):
    found = vertebra("evaluate", folder / "run", folder / "photos", "--json").json
    assert (found["n"], found["top1"]) == (36, 1.0)
    assert found["ece"] == pytest.approx(0.0001992030746, rel=1e-2)
    assert vertebra("export", folder / "run", "--out", folder / "again.onnx").code == 0
    assert load(folder / "again.onnx").predict(folder / "photos" / "red" / "0.png").label == "red"


@pytest.mark.usefixtures("tiny_registry")
def test_a_stopped_run_is_resumed(folder, vertebra, monkeypatch):
    """Bit for bit on one machine; processors round differently."""
    monkeypatch.chdir(folder)
    # A probe changes the head alone, which is replaced anyway: these are the weights that both runs began with.
    shutil.copy(folder / "run" / "weights.safetensors", folder / "densenet.pth")
    result = vertebra("train", "--resume", folder / "unfinished")
    assert result.code == 0, result.err
    expected = json.loads((folder / "resumed.json").read_text("utf-8"))
    metrics = json.loads((folder / "unfinished" / "metrics.json").read_text("utf-8"))
    assert (metrics["top1"], metrics["n"]) == (expected["top1"], expected["n"])
    lines = (folder / "unfinished" / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = {str(int(line["epoch"])): line["val_loss"] for line in map(json.loads, lines) if "val_loss" in line}
    assert losses == pytest.approx(expected["val_loss"], rel=1e-3)
