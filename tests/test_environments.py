"""Every command in a real environment of each extra, from the wheel: it works, or says which extra it needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vertebra.errors import EXTRAS, INCLUDED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
# Call -> the extra without which it cannot be done; None: the base install does it.
CALLS = {
    "models": None,
    "weights list": None,
    "card tiny.onnx": None,
    "card resnet18": None,
    "doctor": None,
    "predict photos --model tiny.onnx": None,
    "audit photos": None,
    "evaluate tiny.onnx photos": None,
    "bench tiny.onnx --turns 1 --seconds 0.1 --batch 1": None,
    "predict photos --model tiny.onnx --out x.parquet": "parquet",
    "predict photos --model tiny.onnx --engine mnn": "fast",
    "audit digits": "train",
    "inspect resnet18 --device none --size 64 --png x.png": "torch",
    "compare resnet18 resnet34 --device none --size 64": "torch",
    "choose --device none": "torch",
    "export resnet18 --weights none --out x.onnx": "torch",
    "train photos --out probed": "torch",
    "train photos --out trained --method scratch --model resnet18 --epochs 1 --set image_size=32": "train",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with the wheels of Vertebra and of its kernels."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [ROOT, ROOT / "kernels"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, *sources], check=True)
    return folder


@pytest.fixture(scope="module", params=[None, *EXTRAS], ids=str)
def environment(request, wheels, tmp_path_factory):
    """The extra, and the Python of an environment with it alone."""
    extra = request.param
    folder = tmp_path_factory.mktemp(f"with-{extra}")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    wheel = next(wheels.glob("vertebra-*.whl"))
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    subprocess.run([python, "-m", "pip", "install", "-q", "--find-links", wheels, what], check=True)
    yield extra, python
    shutil.rmtree(folder)  # with torch it is some gigabytes


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_model):
    folder = tmp_path_factory.mktemp("place")
    write_model(folder / "tiny.onnx", checksum=True, classes=("cat", "dog"))
    for number in range(24):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 10, 60 + 90 * (number % 2), 90)).save(path)
    return folder


def installed(python):
    """The extras whose modules are all there: some extras have those of another, as `ray` has pyarrow."""
    code = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m)))"
    modules = sorted({module for own in EXTRAS.values() for module in own})
    done = subprocess.run([python, "-c", code, *modules], check=True, capture_output=True, text=True)
    return {name for name, own in EXTRAS.items() if set(own) <= set(done.stdout.split())}


def test_every_command(environment, place, tmp_path):
    extra, python = environment
    have = {None, *installed(python)}
    assert {extra, INCLUDED.get(extra)} <= have
    (tmp_path / "photos").symlink_to(place / "photos")
    (tmp_path / "tiny.onnx").symlink_to(place / "tiny.onnx")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"VERTEBRA_CACHE": str(tmp_path / "cache"), "TORCH_HOME": str(tmp_path / "torch"), "VERTEBRA_OFFLINE": "1"}
    for call, needed in CALLS.items():
        done = subprocess.run(
            [python, "-m", "vertebra", *call.split()],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if needed in have:
            assert done.returncode == 0, (call, done.stderr)
            continue
        assert done.returncode == 2, (call, done.stderr)
        # Training names the extra that has all that it may need.
        named = "train" if call.startswith("train") else needed
        assert done.stderr.endswith(f"Run: pip install 'vertebra[{named}]'\n"), (call, done.stderr)
        assert done.stderr.count("\n") == 1, (call, done.stderr)


def test_the_server(environment, place, tmp_path):
    extra, python = environment
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [python, "-m", "vertebra", "serve", place / "tiny.onnx", "--port", "0"],
        cwd=tmp_path, env=env | {"VERTEBRA_CACHE": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if extra == "serve":
            assert any("listening on http" in line for line in process.stderr)
            process.terminate()
            assert process.wait(60) in (0, -15)
        else:
            assert "Run: pip install 'vertebra[serve]'" in process.stderr.read()
            assert process.wait(60) == 2
    finally:
        process.kill()
