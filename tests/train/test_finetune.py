"""Training the whole network: what it leaves, and that nothing is lost whatever happens in between."""

import os
import random
import re
import shutil
import signal
import time
from functools import partial

import pytest
from forked import Forked

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import numpy as np
import torch
from safetensors.torch import load_file

import vertebra
from vertebra.data import open_dataset
from vertebra.errors import UsageError
from vertebra.models import get_model_weights
from vertebra.pixels import network_pixels
from vertebra.train import Settings, TrainError, resume
from vertebra.train import run_checkpoint as checkpoint_module
from vertebra.train.loss import to_images
from vertebra.train.prepare import run_preprocessing
from vertebra.train.run_checkpoint import best_file, read_state
from vertebra.train.run_folder import CHECKPOINT, read_splits
from vertebra.train.temperature import cross_entropy, fit_temperature
from vertebra.train.training_log import read_log

OPTIONS = {"model": "resnet18", "method": "finetune", "image_size": 32, "batch_size": 8, "epochs": 2, "workers": 0}


@pytest.fixture(scope="module")
def more_shapes(tmp_path_factory, draw_shape):
    """Enough photos to hold out some for choosing and some for testing."""
    root = tmp_path_factory.mktemp("more")
    for label in ("circle", "cross", "stripes"):
        (root / label).mkdir()
        for number in range(24):
            draw_shape(label, number).save(root / label / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def tuned(more_shapes, small_weights, tmp_path_factory):
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return vertebra.train(
        more_shapes, folder, weights=str(small_weights), checkpoint_seconds=0, **OPTIONS | {"ema": 0.9}
    )


def test_what_a_run_leaves(tuned, more_shapes):
    kept = {path.name for path in tuned.run.iterdir()}
    assert kept - {"tensorboard"} == {
        "data.csv", "metrics.json", "metrics.jsonl", "model.onnx", "report.html", "settings.toml",
        "weights.safetensors",
    }  # fmt: skip
    assert tuned.metrics["steps"] == 2 * -(-tuned.metrics["train_photos"] // 8)
    assert tuned.metrics["held_out"] == "the test photos"
    assert 0 <= tuned.metrics["probe_top1"] <= 1
    assert "fine-tuned on" in tuned.card.weights.name
    assert tuned.card.preprocessing.crop_size == 32
    report = tuned.report.read_text()
    assert re.search(r"Fine-tuning (beats|does not beat) the probe that it started from", report)
    assert "Validation accuracy" in report
    records = read_log(tuned.run)
    epochs = [record for record in records if "val_accuracy" in record]
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert all(record["loss"] > 0 and record["images_per_second"] > 0 for record in epochs)
    assert tuned.predict(more_shapes / "cross" / "03.png").predictions[0]["class"] in tuned.card.classes


def test_its_folder_is_a_data_set_with_the_splits_that_were_used(tuned):
    counts = {}
    for photo in open_dataset(tuned.run / "data.csv").photos:
        counts[photo.split] = counts.get(photo.split, 0) + 1
    assert sum(counts.values()) == 72
    assert counts["test"] == tuned.metrics["n"]
    assert min(counts.values()) >= 3


def test_a_finished_run_is_given_back(tuned):
    assert resume(tuned.run).metrics == tuned.metrics
    with pytest.raises(UsageError, match="is finished, so nothing can change"):
        resume(tuned.run, lr=0.1)


@pytest.fixture(scope="module")
def start(tiny_command):
    """A training process: `start(data, folder, weights, epochs=3)`."""
    return partial(_start, tiny_command)


@pytest.fixture(scope="module")
def resume_run(tiny_command):
    """Another process, which resumes a run: `resume_run(folder)`."""
    return partial(_go_on, tiny_command)


def _start(script, data, folder, weights, *, new_group=False, **options):
    flags = [f"--set={name}={value}" for name, value in (OPTIONS | options).items()]
    return Forked(script, "train", data, "--out", folder, "--weights", weights, *flags, new_group=new_group)


def _go_on(script, folder, *flags):
    return Forked(script, "train", "--resume", folder, *flags)


@pytest.fixture
def as_the_processes(monkeypatch):
    """With the threads and on the device of `ONE_THREAD`, so that this process computes the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("most", "speed"),
    [(1, "auto"), pytest.param(1, "fused", marks=pytest.mark.slow), pytest.param(6, "auto", marks=pytest.mark.slow)],
)
def test_killed_at_any_moment_it_ends_with_the_same_weights(
    most, speed, start, resume_run, more_shapes, small_weights, tmp_path, as_the_processes
):
    """Killed for real, several times at random moments, with a checkpoint being written after every step.

    test_folder.py has every moment, but in one process.
    """
    options = {"checkpoint_seconds": 0, "ema": 0.9, "mixup": 0.2, "augment": "trivial", "erasing": 0.2}
    options["speed"] = speed
    process = start(more_shapes, tmp_path / "killed", small_weights, **options)
    dice = random.Random(7)
    checkpoint = tmp_path / "killed" / CHECKPOINT
    kills = 0
    while kills < most:
        # A process needs seconds to start; the moments are counted from its first new checkpoint.
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.6))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if most > 1:
            process = resume_run(tmp_path / "killed")
    if most > 1:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    else:
        resume(tmp_path / "killed")
    vertebra.train(more_shapes, tmp_path / "whole", weights=str(small_weights), **OPTIONS | options)
    assert kills >= min(2, most)
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [
        [(r["step"], r["loss"], r["val_accuracy"]) for r in read_log(tmp_path / name) if "val_accuracy" in r]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.slow  # the polite kill takes the same way, and `stopped` in this process
def test_ctrl_c_finishes_the_step_and_says_how_to_resume(start, resume_run, more_shapes, small_weights, tmp_path):
    process = start(more_shapes, tmp_path / "run", small_weights, epochs=200)
    while process.poll() is None and not read_log(tmp_path / "run"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert re.search(r"stopped after step [\d,]+ of", errors)
    assert f"vertebra train --resume {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors
    again = resume_run(tmp_path / "run", "--epochs", "1")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors


def test_a_polite_kill_is_a_ctrl_c(start, more_shapes, small_weights, tmp_path):
    """Sent to all processes of the group, as `timeout` and service managers do."""
    process = start(more_shapes, tmp_path / "run", small_weights, epochs=200, workers=1, new_group=True)
    while process.poll() is None and not read_log(tmp_path / "run"):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert re.search(r"stopped after step [\d,]+ of .*--resume", errors)


def test_ctrl_c_before_the_first_step(start, more_shapes, small_weights, tmp_path):
    process = start(more_shapes, tmp_path / "run", small_weights)
    while process.poll() is None and not (tmp_path / "run" / "settings.toml").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"stopped. Resume with: vertebra train --resume {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors


# --- what goes wrong, in this process ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_once(more_shapes, small_weights, tmp_path_factory):
    """A run that was stopped after four steps; not to be changed."""
    folder = tmp_path_factory.mktemp("once") / "stopped"
    asked = []

    def stop_at(what, done, total):
        if what.startswith("training") and done >= 32 and not asked:
            asked.append(done)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainError, match=r"stopped after step [45] of") as caught:
        vertebra.train(more_shapes, folder, progress=stop_at, weights=str(small_weights), **OPTIONS)
    assert caught.value.exit_code == 130
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(stopped_once, tmp_path / "stopped")


def test_a_loss_that_is_no_number(stopped):
    with pytest.raises(
        TrainError, match=r"(the loss is|weights that are NaN|are NaN or infinite).* rolled back to step 0.* --lr"
    ) as caught:
        resume(stopped, lr=100.0, momentum=0.999, epochs=50, checkpoint_seconds=0)
    assert str(stopped) in str(caught.value)
    kept = load_file(stopped / CHECKPOINT)
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())
    assert resume(stopped, lr=0.001, momentum=0.9, epochs=1).metrics["n"] > 0


def test_a_full_disk(stopped, monkeypatch):
    before = (stopped / CHECKPOINT).read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", full)
        with pytest.raises(TrainError, match=r"No space left on device.*checkpoint before it is kept.*--resume"):
            resume(stopped)
    assert (stopped / CHECKPOINT).read_bytes() == before
    assert not list(stopped.glob(".*"))


def test_a_lost_photo(stopped, more_shapes, tmp_path):
    # The run has its own list of photos; a copy of them can lose one.
    shutil.copytree(more_shapes, tmp_path / "photos")
    table = stopped / "data.csv"
    table.write_text(table.read_text().replace(str(more_shapes), str(tmp_path / "photos")))
    trained = [photo.path for photo in open_dataset(table).photos if photo.split == "train"]
    trained[0].unlink()
    with pytest.raises(TrainError, match=rf"{trained[0].name}: no such file. What was trained until step .* is kept"):
        resume(stopped, epochs=10)
    shutil.copy(more_shapes / trained[0].parent.name / trained[0].name, trained[0])
    assert resume(stopped, epochs=1).metrics["n"] > 0


def test_a_damaged_checkpoint(stopped):
    sound = (stopped / CHECKPOINT).read_bytes()
    (stopped / CHECKPOINT).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(TrainError, match="cannot be used"):
        resume(stopped)
    (stopped / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(TrainError, match="cannot be used"):
        resume(stopped)
    (stopped / CHECKPOINT).write_bytes(sound)
    (stopped / "start.json").write_text("nonsense")
    with pytest.raises(TrainError, match=r"start\.json is missing or damaged"):
        resume(stopped)


def test_settings_that_were_edited_to_those_of_another_network(stopped):
    settings = stopped / "settings.toml"
    settings.write_text(settings.read_text().replace('"resnet18"', '"resnet34"'))
    with pytest.raises(UsageError, match="another model than the run started with: model was 'resnet18'"):
        resume(stopped)
    text = settings.read_text().replace('"resnet34"', '"resnet18"')
    settings.write_text(text + 'ignore = ["stripes"]\n')
    with pytest.raises(UsageError, match=r"another ignore than the run started with: ignore was \[\]"):
        resume(stopped)


def test_what_cannot_be_trained_leaves_no_folder(more_shapes, small_weights, tmp_path):
    with pytest.raises(UsageError, match="freeze is 99"):
        vertebra.train(more_shapes, tmp_path / "run", weights=str(small_weights), **OPTIONS | {"freeze": 99})
    assert not (tmp_path / "run").exists()


def test_photos_that_the_weights_were_trained_on_are_noted(tuned, more_shapes, tmp_path):
    weights = str(tuned.run / "weights.safetensors")
    again = vertebra.train(more_shapes, tmp_path / "run", model="resnet18", weights=weights, seed=1)
    assert any("trained on" in note and "looks better than it is" in note for note in again.metrics["notes"])
    assert "looks better than it is" in again.report.read_text()
    assert not any("looks better" in note for note in tuned.metrics["notes"])


def test_what_cannot_change_in_the_middle(stopped, tmp_path):
    with pytest.raises(UsageError, match="model and seed cannot change"):
        resume(stopped, seed=1, model="resnet34")
    with pytest.raises(UsageError, match="holds no run"):
        resume(tmp_path / "nothing")


# --- what the figures rest on -----------------------------------------------------------------------------------------


def begun(data, folder, weights, **options):
    """A run that is stopped before its first step."""

    def stop(what, done, total):
        if what.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(TrainError, match="stopped"):
        vertebra.train(data, folder, progress=stop, weights=str(weights), **OPTIONS | options)
    return folder


def test_step_0_is_judged_at_the_size_of_the_epochs(more_shapes, small_weights, tmp_path):
    folder = begun(more_shapes, tmp_path / "run", small_weights, image_size=48, lr=1e-9)
    position = read_state(folder)
    network = vertebra.create_model("resnet18", weights=None, num_classes=3).eval()
    network.load_state_dict(load_file(best_file(folder, 0)))
    paths, labels, _ = read_splits(folder)["val"]
    view = run_preprocessing(
        Settings.from_toml(folder / "settings.toml"), get_model_weights("resnet18")["DEFAULT"].preprocessing, 48
    )
    pixels = np.stack([network_pixels(path, view) for path in paths])
    with torch.inference_mode():
        logits = network(to_images(torch.from_numpy(pixels), view)).numpy()
    truth = np.array([position.classes.index(label) for label in labels])
    assert pixels.shape[1:3] == (48, 48)
    assert position.best_score == (logits.argmax(1) == truth).mean()
    assert position.best_loss == pytest.approx(cross_entropy(logits / fit_temperature(logits, truth), truth), abs=1e-3)


def test_the_input_sizes_of_probe_and_network_are_noted(tuned):
    report = tuned.report.read_text()
    assert "The input of the probe is 224 pixels, of the trained network 32." in report


def test_without_test_photos_calibration_is_measured_apart(tmp_path, small_weights, draw_shape):
    for split, count in (("train", 20), ("val", 8)):
        for label in ("circle", "stripes"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(count):
                draw_shape(label, number + 100 * count).save(tmp_path / "data" / split / label / f"{number}.png")
    found = vertebra.train(tmp_path / "data", tmp_path / "run", weights=str(small_weights), **OPTIONS | {"epochs": 1})
    metrics = found.metrics
    assert metrics["n"] == 16
    assert metrics["held_out"] == "the validation photos, which chose the epoch, as there are no test photos"
    assert any("also chose the epoch, so accuracy looks better than it is" in note for note in metrics["notes"])
    # The same photos by the file, whose temperature was fitted to all of them.
    beside = found.evaluate(tmp_path / "data").held.metrics
    assert beside.top1 == metrics["top1"]
    assert metrics["nll"] != pytest.approx(beside.nll, abs=1e-6)
    assert metrics["nll"] == pytest.approx(beside.nll, abs=0.3)


# --- other ways -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_at_once(more_shapes, small_weights, tmp_path):
    """All that a recipe can have, for two epochs."""
    found = vertebra.train(
        more_shapes, tmp_path / "run", weights=str(small_weights),
        **OPTIONS | {
            "optimizer": "adamw", "lr": "auto", "layer_decay": 0.8, "freeze": 2, "warmup": 0.5, "accumulate": 2,
            "cutmix": 1.0, "mixup": 0.2, "augment": "rand", "erasing": 0.3, "balance": "sampler", "dtype": "bfloat16",
            "progressive": 2, "patience": 1, "norm_weight_decay": 0.0, "time_budget": "10m",
        },
    )  # fmt: skip
    kept = Settings.from_toml(found.run / "settings.toml")
    assert isinstance(kept.lr, float)
    assert 0 < kept.lr < 0.1
    frozen, now = torch.load(small_weights), load_file(found.run / "weights.safetensors")
    assert torch.equal(frozen["conv1.weight"], now["conv1.weight"])
    assert torch.equal(frozen["bn1.running_mean"], now["bn1.running_mean"])
    assert "Learning-rate range test" in found.report.read_text()


def test_the_maps_of_frozen_stages_are_kept_and_told(more_shapes, small_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    options = OPTIONS | {"freeze": 2, "epochs": 4}
    found = vertebra.train(more_shapes, tmp_path / "run", weights=str(small_weights), **options)
    (note,) = [note for note in found.metrics["notes"] if "frozen stages" in note]
    assert re.search(
        r"of the 2 frozen stages \(16 × 8 × 8, 2 kB a photo\) are computed once, for 2 views of each ph", note
    )
    assert Settings.from_toml(found.run / "settings.toml").frozen_views == 2
    (store,) = (tmp_path / "cache" / "maps").iterdir()
    rows = 2 * found.metrics["train_photos"] + len(read_splits(found.run)["val"][0])
    assert sum(file.stat().st_size for file in store.glob("*.f16")) == 2048 * rows
    before, now = torch.load(small_weights), load_file(found.run / "weights.safetensors")
    for name, tensor in before.items():
        is_frozen = name.startswith(("conv1", "bn1", "layer1"))
        assert torch.equal(tensor, now[name]) or not is_frozen
        assert not torch.equal(tensor, now[name]) or is_frozen or "num_batches" in name
    # The report's figures are of the whole network, which the file holds too.
    assert found.evaluate(tmp_path / "run" / "data.csv").held.metrics.n == found.metrics["n"]


@pytest.mark.parametrize("options", [{"frozen_views": 0}, {"augment": "rand"}, {"mixup": 0.2}])
def test_new_crops_in_each_epoch_keep_no_maps(options, more_shapes, small_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    options = OPTIONS | {"freeze": 2, "epochs": 4} | options
    found = vertebra.train(more_shapes, tmp_path / "run", weights=str(small_weights), **options)
    assert Settings.from_toml(found.run / "settings.toml").frozen_views == 0
    assert not any("frozen stages" in note for note in found.metrics["notes"])
    assert not list((tmp_path / "cache").glob("maps/*"))
    before, now = torch.load(small_weights), load_file(found.run / "weights.safetensors")
    assert torch.equal(before["layer1.0.conv1.weight"], now["layer1.0.conv1.weight"])
    assert not torch.equal(before["layer2.0.conv1.weight"], now["layer2.0.conv1.weight"])


def test_frozen_views_without_an_effect_are_refused(more_shapes, small_weights, tmp_path):
    with pytest.raises(UsageError, match=r"frozen_views is 3, which would do nothing: no stage is frozen \(freeze\)"):
        vertebra.train(more_shapes, tmp_path / "run", weights=str(small_weights), **OPTIONS, frozen_views=3)


@pytest.mark.parametrize("changes", [{"freeze": 0}, {"freeze": 1}, {"mixup": 0.2}])
def test_a_stopped_run_goes_on_with_other_frozen_stages(changes, more_shapes, small_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))

    def stop(task, done=0, total=None):
        if task.startswith("training: epoch 1"):  # before any weights could be the best ones
            os.kill(os.getpid(), signal.SIGINT)

    options = OPTIONS | {"freeze": 2, "epochs": 4}
    with pytest.raises(TrainError, match="Resume with"):
        vertebra.train(more_shapes, tmp_path / "run", weights=str(small_weights), progress=stop, **options)
    found = resume(tmp_path / "run", **changes)
    assert found.metrics["epochs"] == 4
    before, now = torch.load(small_weights), load_file(found.run / "weights.safetensors")
    assert torch.equal(before["conv1.weight"], now["conv1.weight"]) is (changes.get("freeze", 2) > 0)
    assert torch.equal(before["layer1.0.conv1.weight"], now["layer1.0.conv1.weight"]) is (changes.get("freeze", 2) > 1)


def test_a_time_budget_ends_it(more_shapes, small_weights, tmp_path):
    begun = time.monotonic()
    # For so many steps "auto" would compile the kernels.
    long = OPTIONS | {"epochs": 50_000, "time_budget": "1s", "speed": "eager"}
    found = vertebra.train(more_shapes, tmp_path / "run", weights=str(small_weights), **long)
    assert found.metrics["epochs"] < 40_000
    assert time.monotonic() - begun < 200  # 50,000 epochs take hours


def test_small_pictures_from_nothing(tmp_path, draw_shape):
    for split, count in (("train", 24), ("val", 6), ("test", 6)):
        for label in ("circle", "cross"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(count):
                draw_shape(label, number + 100 * count).resize((32, 32)).save(
                    tmp_path / "data" / split / label / f"{number}.png"
                )
    found = vertebra.train(
        tmp_path / "data", tmp_path / "run", model="googlenet", method="scratch", epochs=2, batch_size=16, lr=0.02,
        balance="loss", workers=1,
    )  # fmt: skip
    assert found.metrics["n"] == 12
    assert found.card.preprocessing.crop_size == found.card.preprocessing.resize_size == 32
    assert "random weights, trained on" in found.card.weights.name
    assert any(name.startswith("aux1.") for name in load_file(found.run / "weights.safetensors"))
    assert "probe_top1" not in found.metrics


def test_too_few_photos(shapes, small_weights, tmp_path):
    few = tmp_path / "few"
    for label in ("circle", "cross"):
        (few / label).mkdir(parents=True)
        shutil.copy(shapes / label / "00.png", few / label)
    with pytest.raises(TrainError, match="too few photos for a validation set"):
        vertebra.train(few, tmp_path / "run", model="resnet18", method="scratch")
    assert not (tmp_path / "run").exists()  # so that the same command works with more photos
