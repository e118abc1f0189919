"""Training on a GPU: the same files as on a CPU, killed and resumed, alone and under torchrun."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

from safetensors.torch import load_file  # noqa: E402

from vertebra.train.run_folder import CHECKPOINT  # noqa: E402
from vertebra.train.training_log import read_log  # noqa: E402

SETTINGS = ("model=resnet18", "image_size=32", "batch_size=8", "epochs=4", "workers=2", "lr=0.001")
SETTINGS += ("checkpoint_seconds=0",)
OPTIONS = [f"--set={setting}" for setting in SETTINGS]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, draw_shape):
    root = tmp_path_factory.mktemp("photos")
    for label in ("circle", "cross", "stripes"):
        (root / label).mkdir()
        for number in range(24):
            draw_shape(label, number).save(root / label / f"{number:02}.png")
    return root


def command(*arguments, launcher=(), **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "vertebra", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def finished(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


@pytest.fixture(scope="module")
def random_weights(whole_names, tmp_path_factory):
    """A whole ResNet-18's, for processes of their own, in which that name means it."""
    import vertebra

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    with whole_names():
        torch.save(vertebra.create_model("resnet18").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def whole(photos, random_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(command("train", photos, "--method", "finetune", "--weights", random_weights, "--out", folder, *OPTIONS))
    return folder


def weights(folder):
    return load_file(folder / "weights.safetensors")


def losses(folder):
    """Of each epoch. Sums on a GPU may differ in order from run to run, so runs are equal within rounding."""
    return [record["loss"] for record in read_log(folder) if "val_accuracy" in record]


def test_a_run_uses_the_gpu_and_leaves_files_for_a_cpu(photos, tmp_path):
    import vertebra

    torch.cuda.reset_peak_memory_stats()
    result = vertebra.train(
        photos, tmp_path / "run", model="resnet18", method="scratch", image_size=32, batch_size=8, epochs=2, workers=0
    )
    assert torch.cuda.max_memory_allocated() > 1e6  # the tiny network's weights, gradients and momentum alone
    assert all(tensor.device.type == "cpu" for tensor in weights(result.run).values())
    assert np.isfinite(result.metrics["top1"])
    out = finished(command("evaluate", tmp_path / "run", photos, CUDA_VISIBLE_DEVICES=""))
    assert "top-1" in out


@pytest.mark.parametrize(("sign", "devices"), [(signal.SIGKILL, None), (signal.SIGINT, "")], ids=["gpu", "cpu"])
def test_stopped_and_resumed(whole, photos, random_weights, tmp_path, sign, devices):
    """On the GPU again, or on a CPU."""
    folder = tmp_path / "run"
    process = command("train", photos, "--method", "finetune", "--weights", random_weights, "--out", folder, *OPTIONS)
    while process.poll() is None and not (folder / CHECKPOINT).exists():
        time.sleep(0.01)
    process.send_signal(sign)
    process.communicate(timeout=120)
    assert process.returncode
    finished(command("train", "--resume", folder, **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})))
    # Float32 on a CPU and TF32 on a GPU part within a few steps of so small a batch.
    assert losses(folder) == pytest.approx(losses(whole), rel=0.05 if devices is None else 1)
    assert weights(folder).keys() == weights(whole).keys()


def test_nccl(photos, random_weights, tmp_path):
    launcher = ("torch.distributed.run", "--nproc-per-node=1", "-m")
    folder = tmp_path / "run"
    arguments = ["train", photos, "--method", "finetune", "--weights", random_weights, "--out", folder, *OPTIONS]
    finished(command(*arguments, launcher=launcher))
    assert (folder / "model.onnx").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_settings_that_touch_the_device(photos, tmp_path, dtype):
    options = ["--set", f"dtype={dtype}", "--set", "mixup=0.2", "--set", "accumulate=2", "--set", "speed=compile"]
    arguments = ["train", photos, "--method", "scratch", "--out", tmp_path / "run", *OPTIONS, *options]
    finished(command(*arguments))
    assert len(losses(tmp_path / "run")) == 4
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_a_module_on_the_gpu_is_exported(tmp_path):
    import vertebra

    network = vertebra.create_model("resnet18", num_classes=3).eval().cuda()
    preprocessing = vertebra.Preprocessing(224, 256, "bicubic")
    vertebra.export.export(network, tmp_path / "x.onnx", preprocessing=preprocessing)
    assert next(network.parameters()).is_cuda
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    assert vertebra.load(tmp_path / "x.onnx").probabilities(pixels).shape == (1, 3)
