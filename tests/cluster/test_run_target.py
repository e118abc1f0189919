"""The folder of a run: what counts as a part of it, and what is left in it."""

import hashlib
import os
from dataclasses import replace

import pytest

from vertebra.cluster.manifest import PartRecord
from vertebra.cluster.run_description import RunDescription
from vertebra.cluster.run_target import RunTarget
from vertebra.errors import UsageError, VertebraError
from vertebra.storage import Location, StorageError

CONTENT = b'{"path": "1.jpg"}\n'


def described(suffix=".jsonl"):
    zeros = "0" * 64
    return RunDescription(
        "m", zeros, {"--top": 1}, "auto", suffix, False, ["photos"], "folder", zeros, 2, 2, 4, None, "/"
    )


def record_of(place):
    entry = place.entry()
    return PartRecord(place.name, 1, 0, entry.size, entry.mtime_ns, hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def target(tmp_path):
    """A run of two parts, both written and recorded."""
    made = RunTarget(Location(str(tmp_path / "all.jsonl")))
    made.begin(described())
    for name in ("part-000000.jsonl", "part-000001.jsonl"):
        (made.location / name).write(CONTENT)
        made.manifest.add(record_of(made.location / name))
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


def test_a_part_that_was_changed_to_the_same_size_is_made_again_and_told(target):
    place = target.location.path / "part-000001.jsonl"
    place.write_bytes(CONTENT.replace(b"1", b"2"))
    later = target.manifest.records[place.name].mtime_ns + 1
    os.utime(place, ns=(later, later))
    with pytest.raises(VertebraError, match=r"part-000001\.jsonl is not as it was written"):
        target.finish(described())
    assert target.missing(described()) == [1]
    assert target.notes() == [
        f"1 part of {target.location} (the first: part-000001.jsonl) changed by another program; made again."
    ]
    assert (target.again, target.manifest.rows) == (1, 1)


def test_a_part_that_was_copied_is_known_by_its_content(target):
    place = target.location.path / "part-000001.jsonl"
    os.utime(place, (1, 1))
    assert target.missing(described()) == [] and target.notes() == []
    target.finish(described())


def test_a_damaged_record_is_told(target):
    (target.state.path / "done-0000.jsonl").write_bytes(b"{\n")
    again = RunTarget(target.location)
    again.resume()
    assert again.missing(described()) == [0, 1]
    assert len(again.notes()) == 1 and "1 line of" in again.notes()[0]


def test_parts_in_a_bucket_are_compared_by_the_second(s3):
    target = RunTarget(Location(f"{s3.uri}/all.jsonl"))
    for name in ("part-000000.jsonl", "part-000001.jsonl"):
        (target.location / name).write(CONTENT)
        target.manifest.add(record_of(target.location / name))
    assert target.missing(described()) == []
    record = target.manifest.records["part-000001.jsonl"]
    target.manifest.add(replace(record, mtime_ns=record.mtime_ns - 5_000_000_000))
    assert target.missing(described()) == []  # by its content
    target.manifest.add(replace(record, mtime_ns=record.mtime_ns - 5_000_000_000, sha256="0" * 64))
    assert target.missing(described()) == [1]
    with pytest.raises(StorageError, match=r"part-000009\.jsonl cannot be read: there is no such file"):
        (target.location / "part-000009.jsonl").entry()


def test_parts_without_the_description_of_their_run(target):
    (target.state.path / "run.json").unlink()
    with pytest.raises(UsageError, match=r"run\.json is gone, .* Give another --out; its parts are whole and stay"):
        target.read_description()


def test_what_is_kept_of_a_run_that_cannot_go_on(target):
    said = "Give another --out; the 2 parts that are done, with 2 rows, are whole and stay."
    assert target.what_is_kept() == said
    assert RunTarget(Location("none.jsonl")).what_is_kept() == "Give another --out."


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
