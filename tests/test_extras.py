"""Every command where packages of extras are absent: it works, or says which extra it needs.

In a process of its own, in which they cannot be imported; `test_environments.py` builds real ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import vertebra
from vertebra.errors import EXTRAS

CODE = """
import contextlib, io, json, sys

absent, calls = json.loads(sys.argv[1])


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
from vertebra.cli import main

for call in calls:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(call)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} & set(absent))))
"""


def needs(extra):
    return 2, f"Run: pip install 'vertebra[{extra}]'\n"


def works(text):
    return 0, text


BASE = {
    "models": works("efficientnet_lite0"),
    "models --pretrained-here": works(""),
    "weights list": works("ResNet50_Weights.IMAGENET1K_V2"),
    "weights path resnet50": (1, "vertebra weights fetch ResNet50_Weights.IMAGENET1K_V2"),
    "card tiny.onnx": works("tiny, float32"),
    "card tiny.onnx --verify": works("tiny.onnx is as it was exported"),
    "card resnet50": works("ResNet50_Weights.IMAGENET1K_V2, 103 MB"),
    "card resnet50 --json": needs("torch"),
    "card resent50": (2, "Did you mean 'resnet50'"),
    "doctor": works("Extras"),
    "doctor --calibrate": needs("torch"),
    "predict photos/cat/0.png --model tiny.onnx": works("cat"),
    "predict photos --model tiny.onnx --out x.csv": works("x.csv: 8 photos"),
    "predict photos --model tiny.onnx --out x.parquet": needs("parquet"),
    "predict photos --model tiny.onnx --engine mnn": needs("fast"),
    "predict photos --model tiny.onnx --engine kernels": needs("kernels"),
    "predict photos --model resnet18": needs("torch"),
    "predict photos --model resent50": (2, "Did you mean 'resnet50'"),
    "evaluate tiny.onnx photos": works("top-1"),
    "evaluate resnet18 photos": needs("torch"),
    "audit photos": works("8 photos"),
    "audit digits": needs("train"),
    "audit mnist": needs("train"),
    "audit table.parquet": needs("parquet"),
    "train photos": needs("train"),
    "train photos --method finetune": needs("train"),
    # What is wrong with the call itself is told before.
    "train photos --set lerning_rate=1": (2, "Did you mean 'lr'?"),
    "train photos --set epochs=many --method scratch": (2, "epochs is 'many'; it must be of type int."),
    "train photos --epochs 3": (2, "epochs would do nothing"),
    "train nowhere": (2, "there is no folder, table or data set 'nowhere'"),
    "train photos --out photos": (2, "photos is not empty."),
    "train --resume photos": (2, "photos holds no run"),
    "inspect resnet18": needs("torch"),
    "compare resnet18 resnet50": needs("torch"),
    "choose --device none": needs("torch"),
    "export resnet18 --out x.onnx": needs("torch"),
    "bench resnet18": needs("torch"),
    "lab list": needs("train"),
    "lab run vgg-parameters": needs("train"),
    "lab run vgg-parameter": (2, "Did you mean 'vgg-parameters'"),
    "serve tiny.onnx": needs("serve"),
}  # fmt: skip


def run(calls, absent, folder):
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([absent, [call.split() for call in calls]])],
        capture_output=True, text=True, cwd=folder, timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(vertebra.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *results, loaded = map(json.loads, done.stdout.splitlines())
    assert loaded == [], "the packages are absent"
    return dict(zip(calls, results, strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_model):
    folder = tmp_path_factory.mktemp("extras")
    write_model(folder / "tiny.onnx", checksum=True)
    for number in range(8):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 30, 60, 90)).save(path)
    (folder / "table.parquet").write_bytes(b"PAR1")
    return folder


@pytest.fixture(scope="module")
def of_the_base(place, tmp_path_factory):
    """Exit code and output of each command where no extra is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        patch.setenv("VERTEBRA_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(BASE, [package for packages in EXTRAS.values() for package in packages], place)


@pytest.mark.parametrize("call", BASE)
def test_without_any_extra(of_the_base, call):
    expected, text = BASE[call]
    code, out, err = of_the_base[call]
    assert code == expected, err
    assert text in (out if code == 0 else err)
    assert "--debug" not in err and "Error" not in err, "no error of another package"
    assert not code or err.startswith("vertebra: ")


def test_nothing_is_left_of_runs_that_could_not_begin(of_the_base, place):
    assert {path.name for path in place.iterdir()} <= {
        "photos",
        "table.parquet",
        "tiny.onnx",
        "x.csv",
        "x.csv.meta.json",
    }


def test_torch_alone_does_without_the_rest_of_its_extra(place, tmp_path):
    """As where torch was installed by itself: what else is needed is still told."""
    calls = {
        "export resnet18 --weights none --out x.onnx": needs("torch"),
        "inspect resnet18 --device none --size 32": works("resnet18"),
        "inspect resnet18 --device none --size 32 --png x.png": needs("torch"),
        "train photos": needs("train"),
        "train photos --method finetune": needs("train"),
        "lab list": needs("train"),
    }
    absent = ["onnx", "matplotlib", "safetensors", "torchvision", "sklearn", "tensorboard"]
    for call, (code, out, err) in run(calls, absent, place).items():
        expected, text = calls[call]
        assert code == expected, err
        assert text in (out if code == 0 else err)
