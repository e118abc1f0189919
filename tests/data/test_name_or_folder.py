"""A folder that is named like a public data set: which of the two is read, and that it is said."""

import shutil

import pytest

from vertebra.data import open_dataset
from vertebra.data.name_or_folder import is_public_name
from vertebra.errors import VertebraWarning

RUN = ("settings.toml", "metrics.json", "data.csv", "model.onnx", "report.html", "tensorboard/events.out.tfevents.1")


@pytest.fixture
def place(folder, tmp_path, monkeypatch):
    """A current folder, and a public data set that is downloaded."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    folder(tmp_path / "cache" / "datasets" / "digits", one=3, two=3)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write_run(root):
    for name in RUN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


@pytest.mark.filterwarnings("error")
def test_without_such_a_folder_nothing_is_said(place):
    assert open_dataset("digits").name == "digits"


@pytest.mark.parametrize("inside", ["digits", "digits/first"])
def test_the_folder_of_a_run_is_no_data(place, inside):
    write_run(place / inside)
    with pytest.warns(VertebraWarning, match=r"for the public data set.*The folder is written \./digits"):
        assert open_dataset("digits").classes == ("one", "two")


def test_a_folder_of_photos_is_read_and_it_is_said(place, folder):
    folder(place / "digits", three=2, four=2)
    with pytest.warns(VertebraWarning, match=r"'digits' is taken for the folder, not for the public data set"):
        assert open_dataset("digits").classes == ("four", "three")
    shutil.rmtree(place / "digits" / "three")
    assert not is_public_name("digits")  # an error about this folder, not other photos than were meant


@pytest.mark.parametrize("name", ["a.CR2", "cat/a.png"])
def test_what_stands_for_photos_is_data(place, name):
    (place / "digits" / name).parent.mkdir(parents=True)
    (place / "digits" / name).write_bytes(b"II*\0" + bytes(40))
    assert not is_public_name("digits") and not is_public_name("./digits")


def test_settings_keep_the_name_wherever_a_run_is_resumed(place, folder, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from vertebra.train import Settings

    write_run(place / "digits")
    settings = Settings.from_mapping({"data": "digits", "method": "scratch", "cwd": str(place)}, "test")
    monkeypatch.chdir(tmp_path)
    assert settings.resolved_data == "digits"
    folder(place / "digits", three=2, four=2)
    assert settings.resolved_data == str(place / "digits")
