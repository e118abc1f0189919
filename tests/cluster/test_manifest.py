"""The manifest: what is recorded is read again, and a damaged line costs its part alone."""

import pytest

from vertebra.cluster import manifest as module
from vertebra.cluster.manifest import Manifest, PartRecord
from vertebra.storage import Location


def record(part, rows, errors, size):
    return PartRecord(part, rows, errors, size, 1_700_000_000_123_456_789, "0" * 64)


def loaded(folder):
    found = Manifest(Location(str(folder)))
    found.load()
    return found


def test_what_is_flushed_is_read_again(tmp_path):
    first = Manifest(Location(str(tmp_path)))
    first.add(record("part-000000.csv", 3, 1, 100))
    first.add(record("part-000001.csv", 4, 0, 120))
    first.flush()
    found = loaded(tmp_path)
    assert (found.rows, found.errors) == (7, 1)
    assert found.records == first.records


def test_a_part_that_was_made_again_has_its_last_record(tmp_path):
    for errors in (2, 0):
        found = loaded(tmp_path)
        found.add(record("part-000000.csv", 3, errors, 100))
        found.flush()
    assert loaded(tmp_path).errors == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0000.jsonl", "done-0001.jsonl"]


def test_a_file_holds_no_more_than_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RECORDS", 2)
    found = Manifest(Location(str(tmp_path)))
    for number in range(5):
        found.add(record(f"part-{number:06}.csv", 1, 0, 10))
    found.flush()
    assert [len(path.read_bytes().splitlines()) for path in sorted(tmp_path.iterdir())] == [2, 2, 1]
    assert loaded(tmp_path).rows == 5


TEXT_FOR_A_NUMBER = b'{"part": "x", "rows": "1", "errors": 0, "bytes": 1, "mtime_ns": 1, "sha256": ""}'


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"part": "x"}', b"\xff", TEXT_FOR_A_NUMBER])
def test_a_damaged_line_costs_its_part_alone(tmp_path, line):
    found = Manifest(Location(str(tmp_path)))
    found.add(record("part-000000.csv", 3, 0, 100))
    found.flush()
    file = tmp_path / "done-0000.jsonl"
    file.write_bytes(line + b"\n" + file.read_bytes())
    assert list(loaded(tmp_path).records) == ["part-000000.csv"]
    assert loaded(tmp_path).damaged == 1


def test_a_file_that_is_lost_costs_its_records_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RECORDS", 1)
    found = Manifest(Location(str(tmp_path)))
    for number in range(3):
        found.add(record(f"part-{number:06}.csv", 1, 0, 10))
    (tmp_path / "done-0000.jsonl").unlink()
    (tmp_path / "done-2.jsonl").write_bytes(b"of others")
    again = loaded(tmp_path)
    assert (list(again.records), again.damaged) == (["part-000001.csv", "part-000002.csv"], 0)
    again.add(record("part-000000.csv", 1, 0, 10))
    assert (tmp_path / "done-0003.jsonl").is_file()  # behind the others, which would be read later


def test_rows_and_errors_are_those_of_the_records(tmp_path):
    found = Manifest(Location(str(tmp_path)))
    for rows, errors in ((3, 1), (4, 2), (5, 0)):
        found.add(record(f"part-00000{rows % 2}.csv", rows, errors, 100))
    found.discard("part-000000.csv")
    found.discard("part-000009.csv")
    assert (found.rows, found.errors) == (5, 0)
