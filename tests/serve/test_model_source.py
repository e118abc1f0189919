"""The exported file behind what was given to serve."""

import json
from types import SimpleNamespace

import pytest

import vertebra.serve.model_source as module
from vertebra.errors import VertebraError


def test_a_name_is_exported_by_another_process_unless_it_is_kept(monkeypatch, tmp_path):
    """Exporting needs torch, which a server never loads."""
    told, runs, kept = [], [], []

    def run(command, **options):
        runs.append((command, options))
        found = json.dumps({"path": f"{tmp_path}/net.onnx", "notes": ["its classes are numbers"]})
        return SimpleNamespace(returncode=0, stderr="", stdout=f"noise\n{found}\n")

    monkeypatch.setattr(module, "find_cached_export", lambda name: kept[-1] if kept else None)
    monkeypatch.setattr(module.subprocess, "run", run)
    assert module.resolve_exported_file("resnet18", told.append) == tmp_path / "net.onnx"
    ((command, options),) = runs
    assert (
        command[0] == module.sys.executable
        and command[1:3] == ["-m", "vertebra.serve.model_source"]
        and command[3:] == ["resnet18", str(module.scratch_dir())]
    )
    assert options["env"]["PYTHONPATH"].split(module.os.pathsep) == module.sys.path
    assert options["capture_output"] and options["text"] and options["errors"] == "replace"
    assert told == ["exporting resnet18, once", "its classes are numbers"]
    kept.append(tmp_path / "kept.onnx")
    assert module.resolve_exported_file("resnet18", told.append) == tmp_path / "kept.onnx"
    (tmp_path / "file.onnx").write_bytes(b"looked at when it is loaded")
    assert module.resolve_exported_file(str(tmp_path / "file.onnx"), told.append) == tmp_path / "file.onnx"
    assert (len(told), len(runs)) == (2, 1)


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (2, "a warning\nthere is no network\n", "^there is no network$"),
        (1, "the weights cannot be had\n", "^the weights cannot be had$"),
        (1, "", "the export failed"),
    ],
)
def test_an_export_that_fails(monkeypatch, code, stderr, message):
    monkeypatch.setattr(module, "find_cached_export", lambda name: None)
    found = SimpleNamespace(returncode=code, stderr=stderr, stdout='"net.onnx"')
    monkeypatch.setattr(module.subprocess, "run", lambda *arguments, **options: found)
    with pytest.raises(VertebraError, match=message) as caught:
        module.resolve_exported_file("resnet18", lambda what: None)
    assert caught.value.exit_code == code
