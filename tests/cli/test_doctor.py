"""What is here and what is missing."""

import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import torch

from vertebra.cli import doctor as doctor_module


def test_json(vertebra):
    report = vertebra("doctor", "--json").json
    assert report["vertebra"] == metadata.version("vertebra")
    assert report["python"]["executable"] == sys.executable
    assert report["packages"]["torch"] == metadata.version("torch")
    assert report["torch"]["version"] == torch.__version__
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert len(report["torch"]["devices"]) >= torch.cuda.device_count()
    assert report["cpu"]["cores"] >= report["cpu"]["usable_cores"] >= 1
    assert set(report["extras"]) == {"torch", "fast", "kernels", "heif", "parquet", "ray", "remote", "train", "serve"}


def test_text_tells_the_same(vertebra):
    result = vertebra("doctor")
    assert result.code == 0
    for title in ("Versions", "Machine", "Extras"):
        assert title in result.out.splitlines()
    assert f"torch {torch.__version__}" in " ".join(result.out.split())
    assert sys.executable in result.out


def test_cache_folder_and_its_size(vertebra, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert vertebra("doctor", "--json").json["cache"]["bytes"] == 0
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "a-12345678.pth").write_bytes(bytes(1_500_000))
    assert vertebra("doctor", "--json").json["cache"] == {"folder": str(folder), "files": 1, "bytes": 1_500_000}
    assert f"1 file, 1.50 MB in {folder}" in vertebra("doctor").out


def test_missing_extras_have_their_command(vertebra, monkeypatch):
    real = doctor_module._version
    absent = {"fastapi", "safetensors"}
    monkeypatch.setattr(doctor_module, "_version", lambda name: None if name in absent else real(name) or "1.0")
    extras = vertebra("doctor", "--json").json["extras"]
    assert extras["serve"] == {"missing": ["fastapi"], "command": "pip install 'vertebra[serve]'"}
    assert extras["torch"]["missing"] == ["safetensors"]
    assert extras["train"]["missing"] == ["safetensors"], "an extra asks for the packages of the extras in it"
    assert extras["fast"] == {"missing": [], "command": None}
    text = vertebra("doctor").out
    assert "missing fastapi: pip install 'vertebra[serve]'" in text
    assert "complete" in text


def test_without_torch():
    code = "import sys; sys.modules['torch'] = None\nfrom vertebra.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout
    assert "not installed" in done.stdout


def test_torch_that_does_not_load(vertebra, monkeypatch):
    monkeypatch.setattr(doctor_module, "_torch_info", lambda: {"error": "libfoo.so is missing"})
    assert "does not load: libfoo.so is missing" in vertebra("doctor").out


def test_passwords_are_not_told(vertebra, monkeypatch):
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", "https://me:secret@mirror.example/weights")
    for arguments in (["doctor"], ["doctor", "--json"]):
        out = vertebra(*arguments).out
        assert "secret" not in out
        assert "https://***@mirror.example/weights" in out


def test_a_calibration_anew(vertebra, monkeypatch):
    asked = []

    def recalibrate(executor, notify):
        asked.append(executor)
        return SimpleNamespace(is_provisional=executor == "torch", others=0.25, noise=0.02)

    monkeypatch.setattr("vertebra.anatomy.recalibrate", recalibrate)
    result = vertebra("doctor", "--calibrate", "--json")
    assert result.code == 0 and result.json["vertebra"]
    assert asked == ["onnxruntime", "torch"]
    assert result.err.splitlines() == [
        "onnxruntime: kept (other programs took 25% of the processor, repeated runs differed by 2%)",
        "torch: kept provisionally, as the machine is busy (other programs took 25% of the processor, repeated runs "
        "differed by 2%)",
    ]
