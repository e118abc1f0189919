"""The folder of a run: what counts as a part of it, and what is left in it."""

import pytest

from vertebra.cluster.manifest import PartRecord
from vertebra.cluster.run_description import RunDescription
from vertebra.cluster.run_target import RunTarget
from vertebra.errors import VertebraError
from vertebra.storage import Location

CONTENT = b'{"path": "1.jpg"}\n'


def described(suffix=".jsonl"):
    zeros = "0" * 64
    return RunDescription("m", zeros, {"--top": 1}, suffix, False, ["photos"], "folder", zeros, 2, 2, 4, None, "/")


@pytest.fixture
def target(tmp_path):
    """A run of two parts, both written and recorded."""
    made = RunTarget(Location(str(tmp_path / "all.jsonl")))
    made.begin(described())
    for name in ("part-000000.jsonl", "part-000001.jsonl"):
        (made.location / name).write(CONTENT)
        made.manifest.add(PartRecord(name, 1, 0, len(CONTENT)))
    made.manifest.flush()
    return made


def test_files_of_the_state_are_no_parts(target):
    assert list(target.state.path.glob("*.jsonl"))  # the manifest
    assert target.missing(described()) == []
    target.finish(described())
    assert (target.location.path / "_SUCCESS").exists()


def test_a_part_that_is_lost_or_cut_is_missing(target):
    (target.location.path / "part-000000.jsonl").unlink()
    (target.location.path / "part-000001.jsonl").write_bytes(CONTENT[:-1])
    assert target.missing(described()) == [0, 1]


def test_what_a_killed_writer_left_is_deleted(target):
    folder = target.location.path
    left = [folder / ".part-000001.0123456789ab.jsonl", target.state.path / ".done-0000.0123456789ab.jsonl"]
    kept = [folder / ".part-of-mine.jsonl", folder / ".0123456789ab", target.state.path / ".mine"]
    for path in [*left, *kept]:
        path.touch()
    target.finish(described())
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("name", ["part-000002.jsonl", "of/others.jsonl"])
def test_a_file_of_others_that_readers_take_for_results(target, name):
    place = target.location.path / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(CONTENT)
    with pytest.raises(VertebraError, match=name):
        target.finish(described())
