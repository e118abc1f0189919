"""Parquet with the bytes of photos: every row once and in order, whatever its row groups; memory does not grow."""

import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from vertebra.errors import UsageError  # noqa: E402
from vertebra.sources.parquet_bytes import (  # noqa: E402
    MAX_PIECES,
    ParquetChunk,
    parquet_photos,
    row_ranges,
)
from vertebra.sources.photo_column import bytes_columns, photo_column  # noqa: E402
from vertebra.storage import Location, StorageError  # noqa: E402


def photo(number):
    return b"\xff\xd8\xff" + str(number).encode() * 50


def write(path, rows, columns=None, row_group_size=10, **options):
    table = pyarrow.table({"image": [photo(n) for n in range(rows)], **(columns or {})})
    parquet.write_table(table, path, row_group_size=row_group_size, **options)
    return path


def chunks(path, chunk_photos, column=None):
    photos = parquet_photos(Location(str(path)), column)
    return [
        ParquetChunk(photos.location, photos.state, photos.columns, first, rows)
        for first, rows in row_ranges(photos.ends, chunk_photos)
    ]


@pytest.mark.parametrize(("rows", "group", "wanted"), [(95, 10, 32), (95, 1, 7), (95, 95, 8), (5, 1000, 1024)])
def test_each_row_is_read_once_and_in_order(tmp_path, rows, group, wanted):
    path = write(tmp_path / "a.parquet", rows, {"path": [f"cat/{n}.jpg" for n in range(rows)]}, group)
    found = [record for chunk in chunks(path, wanted) for record in pickle.loads(pickle.dumps(chunk)).read()]
    assert [record.name for record in found] == [f"cat/{n}.jpg" for n in range(rows)]
    assert [record.content for record in found] == [photo(n) for n in range(rows)]


def test_row_groups_are_joined_and_split():
    assert list(row_ranges([10, 20, 30, 100, 101, 102], 25)) == [
        *((0, 20), (20, 10), (30, 25), (55, 25), (80, 20)),
        (100, 2),
    ]
    assert list(row_ranges([], 25)) == []
    assert list(row_ranges([0, 0], 25)) == []
    large = list(row_ranges([1_000_000], 1000))
    assert len(large) == MAX_PIECES
    for seed in range(200):
        rng = random.Random(seed)
        ends, end = [], 0
        for _ in range(rng.randrange(12)):
            end += rng.choice((0, 1, 5, 17, 300))
            ends.append(end)
        at = 0
        for first, rows in row_ranges(ends, rng.choice((1, 4, 16, 100))):
            assert first == at
            assert rows > 0
            at += rows
        assert at == end


def test_hugging_faces_struct_is_found_and_its_rows_are_named_by_number(tmp_path):
    values = [{"bytes": photo(n), "path": "image.jpg"} for n in range(5)]
    values[2] = None
    values[3] = {"bytes": None, "path": "image.jpg"}
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"image": values, "label": list(range(5))}), path)
    found = [record for chunk in chunks(path, 2) for record in chunk.read()]
    assert [record.name for record in found] == [f"{path}::{n}" for n in range(5)]
    assert [record.content for record in found] == [photo(0), photo(1), None, None, photo(4)]
    assert found[2].error == found[3].error.replace("::3", "::2")
    assert "null" in found[2].error


def test_rows_without_bytes_have_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"jpg": pyarrow.array([photo(0), None, b""], pyarrow.large_binary()), "file": ["a", "b", None]}),
        path,
    )
    first, second, third = chunks(path, 10)[0].read()
    assert first.content == photo(0)
    assert second.error == f"b ({path}::1) has no bytes: its value is null."
    assert third.error == f"{path}::2 is empty"


def test_the_column_of_bytes_is_found_by_its_type_and_several_are_refused(tmp_path):
    schema = pyarrow.schema([("thumb", pyarrow.binary()), ("full", pyarrow.binary()), ("path", pyarrow.string())])
    with pytest.raises(UsageError, match=r"2 columns of photos: 'thumb', 'full'.*--path-column thumb or"):
        photo_column(schema, "a.parquet")
    assert photo_column(schema, "a.parquet", "full") == "full"
    assert bytes_columns(schema, "a.parquet", "full").photo == "full"
    assert bytes_columns(schema, "a.parquet", "path") is None
    assert photo_column(schema, "a.parquet", "path") is None
    assert photo_column(pyarrow.schema([("path", pyarrow.string())]), "a.parquet") is None
    twice = pyarrow.schema([("image", pyarrow.binary()), ("image", pyarrow.binary())])
    with pytest.raises(UsageError, match="2 columns 'image'"):
        bytes_columns(twice, "a.parquet", photo_column(twice, "a.parquet"))
    with pytest.raises(UsageError, match=r"no column of bytes \(it has n\)"):
        path = tmp_path / "n.parquet"
        parquet.write_table(pyarrow.table({"n": [1]}), path)
        parquet_photos(Location(str(path)))


@pytest.mark.parametrize(
    ("columns", "given", "row", "found"),
    [
        ({"path": "text", "md5": "bytes"}, None, {"md5": b"0" * 16}, None),
        ({"path": "text", "md5": "bytes"}, None, {"md5": None}, None),
        ({"path": "text", "md5": "bytes"}, None, None, "md5"),  # by its type alone
        ({"md5": "bytes", "image": "bytes"}, None, None, "image"),
        ({"image": "bytes", "md5": "bytes"}, "md5", None, "md5"),
        ({"image": "bytes", "file": "bytes"}, None, {"image": b"", "file": b"1.jpg"}, "image"),
        ({"image": "bytes", "file": "bytes"}, "file", {"image": b"", "file": b"1.jpg"}, None),
        ({"x": "struct", "thumb": "bytes"}, None, {"thumb": photo(1)}, "x"),
        ({"x": "struct", "thumb": "bytes"}, "thumb", {"thumb": photo(1)}, "thumb"),
        ({"n": "text"}, None, {"n": "1"}, None),
    ],
)
def test_types_names_and_the_first_row_decide_together(columns, given, row, found):
    kinds = {"text": pyarrow.string(), "bytes": pyarrow.binary(), "struct": pyarrow.struct({"bytes": pyarrow.binary()})}
    schema = pyarrow.schema({name: kinds[kind] for name, kind in columns.items()})
    values = None if row is None else [row.get(name) for name in columns]
    assert photo_column(schema, "a.parquet", given, first_row=lambda: values) == found


def damaged(path, row_group):
    """A file of 30 photos, one of whose row groups is damaged."""
    write(path, 30, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    begin = parquet.ParquetFile(path).metadata.row_group(row_group).column(0).data_page_offset
    content[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(content)
    return path


def test_a_damaged_first_row_is_one_line(tmp_path):
    path = damaged(tmp_path / "a.parquet", row_group=0)
    with pytest.raises(
        StorageError, match=r"a\.parquet: its first row cannot be read: the file is damaged \([^\n]+\)\.$"
    ):
        parquet_photos(Location(str(path)))


def test_a_damaged_row_group_costs_its_rows_and_each_has_an_error(tmp_path):
    path = damaged(tmp_path / "a.parquet", row_group=1)
    found = [record for chunk in chunks(path, 10) for record in chunk.read()]
    assert [record.content for record in found[:10] + found[20:]] == [photo(n) for n in [*range(10), *range(20, 30)]]
    assert [record.name for record in found[10:20]] == [f"{path}::{n}" for n in range(10, 20)]
    assert all("the file is damaged" in record.error for record in found[10:20])


def test_a_file_that_is_cut_empty_or_another_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", 30)
    whole = path.read_bytes()
    listed = chunks(path, 10)[1]
    for content in (whole[:-10], whole[:100], b"", b"text" * 100):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"a\.parquet is no Parquet file, or is cut off"):
            parquet_photos(Location(str(path)))
        with pytest.raises(StorageError, match="has changed since it was listed"):
            list(listed.read())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_row_group_of_many_megabytes_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "big.parquet"
    row = pyarrow.array([bytes(500_000)], pyarrow.binary())
    # Pages of some rows, as a writer makes them who gives it rows as they come.
    with parquet.ParquetWriter(path, pyarrow.schema([("image", pyarrow.binary())]), compression="none",
                               use_dictionary=False, write_batch_size=2) as writer:  # fmt: skip
        writer.write_table(pyarrow.table({"image": pyarrow.concat_arrays([row] * 600)}), row_group_size=600)
    code = (
        "import sys\n"
        "from vertebra.sources.parquet_bytes import *\n"
        "from vertebra.storage import Location\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "photos = parquet_photos(Location(sys.argv[1]))\n"
        "chunk = ParquetChunk(photos.location, photos.state, photos.columns, 400, 200)\n"
        "before, peak, count = resident(), 0, 0\n"
        "for record in chunk.read():\n"
        "    count += len(record.content) == 500_000\n"
        "    peak = max(peak, resident() - before)\n"
        "print(count, peak)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == 200
    assert peak < 100_000_000  # the row group has 300 MB


# --- for training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [0, 64_000_000])
def test_rows_are_read_in_any_order(tmp_path, monkeypatch, cached):
    monkeypatch.setattr("vertebra.sources.parquet_bytes._CACHED", cached)
    path = write(tmp_path / "a.parquet", 50, {"label": [f"class {n % 3}" for n in range(50)]}, row_group_size=20)
    photos = parquet_photos(Location(str(path)))
    assert len(photos) == 50
    assert photos.place(0) == (0, 0)
    assert photos.place(19) == (0, 19)
    assert photos.place(45) == (2, 5)
    assert photos.column("label")[:3] == ["class 0", "class 1", "class 2"]
    order = [*range(50), *random.Random(0).sample(range(50), 50), 3, 3, 49]
    assert [photos.read(row) for row in order] == [photo(n) for n in order]
    assert pickle.loads(pickle.dumps(photos)).read(7) == photo(7)
    photos.close()
    assert photos.read(8) == photo(8)
    with pytest.raises(UsageError, match=r"no column 'labels' .* Did you mean 'label'"):
        photos.column("labels")
    photos.close()
    write(path, 51)
    with pytest.raises(StorageError, match="has changed"):
        photos.read(0)


def test_rows_are_read_from_s3(s3, tmp_path):
    path = write(tmp_path / "a.parquet", 30)
    location = Location(s3.put("a.parquet", path.read_bytes()))
    photos = parquet_photos(location)
    assert [photos.read(row) for row in (0, 29, 5)] == [photo(0), photo(29), photo(5)]
    chunk = ParquetChunk(location, photos.state, photos.columns, 15, 10)
    assert [record.content for record in chunk.read()] == [photo(n) for n in range(15, 25)]
    assert next(iter(chunk.read())).name == f"{location}::15"
