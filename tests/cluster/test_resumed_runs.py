"""What a resumed run tells, mends or refuses before Ray is started."""

import shutil
from dataclasses import replace

import pytest
from installed import needs

from vertebra.cluster import prediction_run as module
from vertebra.cluster.prediction_run import RunSettings, predict_on_ray
from vertebra.errors import UsageError, VertebraError

needs("ray", "pyarrow")


class StoppedError(VertebraError):
    """Instead of a start of Ray."""


@pytest.fixture
def begun(tiny_export, tiny_photos, tmp_path, monkeypatch):
    """The settings of a run that was stopped before its first part."""

    def stop(address, photos, target, task, *others):
        stop.task = task
        raise StoppedError("stopped")

    monkeypatch.setattr(module, "_make", stop)
    shutil.copytree(tiny_photos, tmp_path / "photos")
    settings = RunSettings(
        [str(tmp_path / "photos")], str(tmp_path / "all.csv"), str(tiny_export), engine="onnxruntime"
    )
    with pytest.raises(StoppedError):
        predict_on_ray(settings)
    return replace(settings, resume=True)


@pytest.fixture
def listed(tmp_path):
    return tmp_path / "all.csv" / "_vertebra" / "inputs" / "part-00000.parquet"


def resumed(settings):
    """Return what is told until Ray would be started."""
    told = []
    with pytest.raises(StoppedError):
        predict_on_ray(settings, tell=told.append)
    return told


def damage(path, how):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
        return
    if how == "flipped":  # within the names, behind the header of their page
        place = len(content) // 3
        content = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    path.write_bytes(content[:100] if how == "cut" else content)


@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
def test_a_lost_list_is_written_again_where_the_photos_are_the_same(begun, listed, how):
    whole = listed.read_bytes()
    assert resumed(begun) == []
    damage(listed, how)
    (said,) = resumed(begun)
    assert said.startswith(f"{listed}, where the photos are listed, was damaged or gone")
    assert listed.read_bytes() == whole
    assert len(list(module_photos())) == 36


def module_photos():
    """Yield the photos that the actors would read."""
    parts = module._make.task.parts
    for part in range(len(parts.plan)):
        yield from parts.chunk(part).read()


def test_a_lost_list_of_other_photos_is_refused(begun, listed, tmp_path):
    next((tmp_path / "photos").rglob("*.png")).unlink()
    (said,) = resumed(begun)
    assert "has changed since" in said and "36 photos that were listed then" in said
    listed.unlink()
    with pytest.raises(UsageError) as error:
        predict_on_ray(begun)
    assert f"{listed}, where its photos are listed, is damaged or gone" in str(error.value)
    assert str(error.value).endswith("so it cannot be resumed. Give another --out.")


def test_another_engine_is_told(begun):
    (said,) = resumed(replace(begun, engine="auto"))
    assert "was begun with --engine onnxruntime, and goes on with --engine auto" in said


def test_what_another_machine_is_asked_for_is_of_each_folder(begun, tmp_path):
    assert resumed(replace(begun, address="10.0.0.1:6379")) == []
    folders = {name.rpartition("/")[0] for name, _ in module._make.task.sample}
    assert folders == {str(path) for path in (tmp_path / "photos").iterdir()}
