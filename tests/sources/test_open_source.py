"""A SOURCE by its text: each photo once and in order, or one line that says why not."""

import csv
import gzip
import os
import pickle
import shutil
import tarfile
import tracemalloc
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from vertebra.errors import DataError, UsageError, VertebraError, VertebraWarning  # noqa: E402
from vertebra.sources import open_source  # noqa: E402
from vertebra.storage import Location, StorageError  # noqa: E402

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)


def photo(name):
    return JPEG + os.fsencode(name)


def fill(folder, names):
    """Write photos, and return their paths."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(path.name))
    return [str(folder / name) for name in names]


def read(source):
    """All records of a source, by chunks that went through a pickle of constant size."""
    records = []
    for number in range(len(source)):
        packed = pickle.dumps(source.chunk(number))
        assert len(packed) < 1_500
        records += pickle.loads(packed).read(3)
    assert source.photos in (None, len(records))
    return records


def names(source):
    return [record.name for record in read(source)]


def test_a_folder_is_read_in_chunks_in_the_order_of_names(tmp_path):
    paths = fill(tmp_path / "photos", [f"{c}/{n:02}.jpg" for c in ("cat", "dog") for n in range(10)])
    source = open_source(str(tmp_path / "photos"), index=Location(str(tmp_path / "index")), chunk_photos=7)
    assert (source.kind, source.photos, len(source)) == ("folder", 20, 3)
    records = read(source)
    assert [record.name for record in records] == paths
    assert [record.content for record in records] == [photo(Path(path).name) for path in paths]
    assert source.chunk(1).name == f"{tmp_path / 'photos'} 8 to 14"
    with pytest.raises(IndexError):
        source.chunk(3)


def test_parts_of_the_list_follow_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr("vertebra.sources.listing.PART_PHOTOS", 6)
    paths = fill(tmp_path / "photos", [f"{n:02}.jpg" for n in range(23)])
    index = tmp_path / "index"
    source = open_source(str(tmp_path / "photos"), index=Location(str(index)), chunk_photos=2)
    assert names(source) == paths
    parts = sorted((index / "inputs").iterdir())
    assert [path.name for path in parts] == [f"part-{n:05}.parquet" for n in range(4)]
    assert [parquet.ParquetFile(path).num_row_groups for path in parts] == [3, 3, 3, 3]
    assert parquet.read_schema(parts[0]).names == ["name", "size", "version", "error"]


ODD = [
    "a b.jpg",
    "new\nline.jpg",
    "per%20cent.jpg",
    "x::y.jpg",
    "ä-日本.JPG",
    "no-suffix",
    os.fsdecode(b"\xff\xfe.jpg"),
]


def test_odd_names_and_broken_photos(tmp_path):
    folder = tmp_path / "photos"
    paths = fill(folder, ODD)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "notes.txt").write_text("none")
    fill(folder, [".hidden.jpg", "__MACOSX/x.jpg", "._a b.jpg"])
    found = {record.name: record for record in read(open_source(folder))}
    assert {name for name, record in found.items() if not record.error} == set(paths)
    errors = {Path(name).name: record.error for name, record in found.items() if record.error}
    assert sorted(errors) == ["empty.jpg", "gone.jpg", "pipe.jpg"]
    assert errors["empty.jpg"] == f"{folder / 'empty.jpg'} is empty"
    assert errors["gone.jpg"] == f"{folder / 'gone.jpg'}: no such file"
    assert errors["pipe.jpg"] == f"{folder / 'pipe.jpg'} is a pipe or device, not an image file"


def test_a_folder_without_permission_and_a_photo_that_vanished_have_an_error(tmp_path):
    folder = tmp_path / "photos"
    paths = fill(folder, ["1.jpg", "2.jpg", "3.jpg"])
    source = open_source(folder)
    (folder / "1.jpg").unlink()
    (folder / "2.jpg").write_bytes(photo("changed"))
    first, second, third = read(source)
    assert first.error == f"{paths[0]}: no such file"
    assert (second.content, third.content) == (photo("changed"), photo("3.jpg"))
    if os.geteuid():
        (folder / "locked").mkdir(mode=0)
        assert "cannot be listed" in read(open_source(folder))[-1].error


def test_the_digest_tells_names_sizes_and_times_apart(tmp_path):
    folder = tmp_path / "photos"
    fill(folder, ["1.jpg", "2.jpg"])

    def digest(source=folder, **options):
        return open_source(source, **options).digest

    first = digest()
    assert digest() == first == digest(chunk_photos=1)
    status = (folder / "2.jpg").stat()
    (folder / "2.jpg").write_bytes(photo("larger than before"))
    os.utime(folder / "2.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    second = digest()
    os.utime(folder / "2.jpg", ns=(0, 1))
    third = digest()
    (folder / "2.jpg").rename(folder / "3.jpg")
    assert len({first, second, third, digest()}) == 4


def test_a_list_of_another_run_is_refused(tmp_path):
    fill(tmp_path / "a", ["1.jpg"])
    fill(tmp_path / "b", ["2.jpg"])
    index = Location(str(tmp_path / "index"))
    old = open_source(tmp_path / "a", index=index)
    assert names(old) == [str(tmp_path / "a" / "1.jpg")]
    open_source(tmp_path / "b", index=index)
    with pytest.raises(StorageError, match="is the list of another run"):
        read(old)
    (tmp_path / "index" / "inputs" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="damaged"):
        read(old)


def test_several_folders_and_photos_are_one_source_and_none_is_there_twice(tmp_path):
    paths = fill(tmp_path, ["a/1.jpg", "b/2.jpg", "3.jpg"])
    assert names(open_source([str(tmp_path / "a"), str(tmp_path / "b"), paths[2]])) == paths
    assert names(open_source(f"{tmp_path}/{{a,b}}/*.jpg")) == paths[:2]
    for twice in ([str(tmp_path / "a"), f"{tmp_path}/a/"], [str(tmp_path), str(tmp_path / "a")], [paths[0], paths[0]]):
        with pytest.raises(UsageError, match="twice"):
            open_source(twice)


@pytest.mark.parametrize("given", ["photoz", "photoz/1.jpg", "lits.csv", "train-{0..1}.tr", "fotos.parquet"])
def test_what_is_missing_comes_with_the_nearest_name(tmp_path, given):
    fill(tmp_path / "photos", ["1.jpg"])
    for name in ("list.csv", "train-0.tar", "photos.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(
        StorageError, match=r"no such file\. Did you mean '(photos(\.parquet)?|list\.csv|train-0\.tar)'"
    ):
        open_source(f"{tmp_path}/{given}")


def test_a_missing_image_root_comes_with_the_nearest_name(tmp_path):
    fill(tmp_path / "photos", ["1.jpg"])
    with pytest.raises(DataError, match=r"looked up in .*/photoz; there is no such folder\. Did you mean 'photos'\?$"):
        open_source(table(tmp_path / "t.csv", ["1.jpg"]), image_root=str(tmp_path / "photoz"))


def test_a_folder_without_photos_is_refused_and_says_what_is_there(tmp_path):
    with pytest.raises(DataError, match="there is no photo in this folder"):
        open_source(tmp_path)
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0 ftypisom" + bytes(100))
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"film\.mp4"):
        open_source(tmp_path)
    with pytest.raises(StorageError, match=r"/nowhere: no such file\.$"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no file matches"):
        open_source(f"{tmp_path}/*.tar")
    (tmp_path / "shards").mkdir()
    with pytest.raises(UsageError, match=r"no file matches\. Did you mean 'shards'\?$"):
        open_source(f"{tmp_path}/shard/*.tar")
    with pytest.raises(UsageError, match="no source"):
        open_source([])
    with pytest.raises(UsageError, match="standard input"):
        open_source("-")


# --- shards -----------------------------------------------------------------------------------------------------------


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in members:
        (path.parent / "in").mkdir(exist_ok=True)
        (path.parent / "in" / name).write_bytes(photo(name))
    with tarfile.open(path, "w") as archive:
        for name in members:
            archive.add(path.parent / "in" / name, arcname=name)
    shutil.rmtree(path.parent / "in")
    return path


def test_shards_by_pattern_range_list_and_folder(tmp_path):
    files = [shard(tmp_path / "s" / f"train-{n:03}.tar", [f"{n}-{m}.jpg" for m in range(3)]) for n in range(4)]
    expected = [f"{file}::{n}-{m}.jpg" for n, file in enumerate(files) for m in range(3)]
    for given in (
        f"{tmp_path}/s/*.tar",
        f"{tmp_path}/s/train-{{000..003}}.tar",
        f"{tmp_path}/**/train-00[0-3].tar",
        [str(file) for file in files],
        str(tmp_path / "s"),
    ):
        source = open_source(given)
        assert (source.kind, source.photos, len(source)) == ("webdataset", None, 4)
        assert names(source) == expected
    digest = open_source(tmp_path / "s").digest
    shard(files[1], ["x.jpg"])
    assert open_source(tmp_path / "s").digest != digest
    with pytest.raises(StorageError, match=r"train-004\.tar: no such file\. Did you mean 'train-003"):
        open_source(f"{tmp_path}/s/train-{{000..004}}.tar")


def test_a_folder_that_mixes_kinds_is_refused_or_told(tmp_path):
    shard(tmp_path / "1.tar", ["1.jpg"])
    (tmp_path / "1.parquet").write_bytes(b"PAR1")  # of img2dataset, with what is known of each photo
    (tmp_path / "1.tar.bz2").write_bytes(b"BZh9" + bytes(20))
    with pytest.warns(VertebraWarning) as told:
        assert names(open_source(tmp_path)) == [f"{tmp_path}/1.tar::1.jpg"]
    assert "Parquet files beside its shards, which are left out: " in str(told[0].message)
    assert "1.tar.bz2" in str(told[1].message)
    fill(tmp_path, ["photo.jpg"])
    with pytest.raises(UsageError, match=r"has photos, such as .*photo\.jpg, and shards, such as .*1\.tar"):
        open_source(tmp_path)
    (tmp_path / "1.tar").unlink()
    with pytest.warns(VertebraWarning, match="beside its photos"):
        assert names(open_source(tmp_path)) == [f"{tmp_path}/photo.jpg"]
    with pytest.raises(UsageError, match="of tar archives"):
        open_source(tmp_path / "1.tar.bz2")
    table(tmp_path / "t.csv", ["photo.jpg"])
    with pytest.raises(UsageError, match=r"t\.csv is a table, and .*photo\.jpg is a photo"):
        open_source([str(tmp_path / "t.csv"), str(tmp_path / "photo.jpg")])


def test_results_in_the_folder_are_no_source(tmp_path):
    fill(tmp_path / "photos", ["a.jpg"])
    table = pyarrow.table({"path": [str(tmp_path / "photos" / "a.jpg")]})
    for place in ("tables/photos.parquet", "tables/r.parquet/part-000000.parquet"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, tmp_path / place)
    results = tmp_path / "tables" / "r.parquet"
    assert open_source(tmp_path / "tables").photos == 2
    (results / "_vertebra").mkdir()
    (results / "_vertebra" / "run.json").write_text("{}")
    with pytest.warns(VertebraWarning, match=r"r\.parquet has the results of predictions, which are left out"):
        assert open_source(tmp_path / "tables").photos == 1
    assert open_source(results).photos == 1  # asked for


@pytest.mark.parametrize("option", ["path_column", "image_root"])
def test_what_is_said_of_tables_is_refused_of_others(tmp_path, option):
    (path,) = fill(tmp_path / "photos", ["a.jpg"])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(path, "1.jpg")
    for source in (path, tmp_path / "photos", tmp_path / "a.tar", f"{tmp_path}/*.tar"):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is for tables and Parquet files"):
            open_source(source, **{option: "x"})
    parquet.write_table(pyarrow.table({"image": [JPEG]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="--image-root is for tables of paths"):
        open_source(tmp_path / "x.parquet", image_root="x")


def test_a_parquet_file_without_photos_says_what_it_has(tmp_path):
    parquet.write_table(pyarrow.table({"image": [[JPEG]], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"neither .* it has image \(list<.*>\), label \(int64\)"):
        open_source(tmp_path / "x.parquet")


def test_bytes_of_a_dictionary_are_photos(tmp_path):
    column = pyarrow.array([photo("a"), photo("b"), None, photo("a")], pyarrow.binary()).dictionary_encode()
    parquet.write_table(pyarrow.table({"image": column}), tmp_path / "x.parquet")
    records = read(open_source(tmp_path / "x.parquet"))
    assert [record.content for record in records] == [photo("a"), photo("b"), None, photo("a")]


def test_a_compressed_shard(tmp_path):
    path = shard(tmp_path / "1.tar", ["1.jpg", "2.jpg"])
    packed = tmp_path / "1.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert names(open_source(packed)) == [f"{packed}::1.jpg", f"{packed}::2.jpg"]


# --- tables -----------------------------------------------------------------------------------------------------------


def table(path, paths, column="path", **options):
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, **options)
        writer.writerow(["n", column])
        writer.writerows((n, value) for n, value in enumerate(paths))
    return path


def test_each_row_of_a_table_is_read_in_its_order(tmp_path):
    fill(tmp_path, [f"photos/{n}.jpg" for n in range(10)])
    rows = [f"photos/{n}.jpg" for n in (3, 1, 2, 0, 9)]
    path = table(tmp_path / "t.csv", [*rows, str(tmp_path / "photos" / "4.jpg"), "photos/none.jpg", ""])
    source = open_source(path, chunk_photos=3)
    assert (source.kind, source.photos, len(source)) == ("table", 8, 3)
    *first, missing, empty = read(source)
    assert [record.name for record in first] == [str(tmp_path / row) for row in [*rows, "photos/4.jpg"]]
    assert [record.content for record in first] == [photo(Path(record.name).name) for record in first]
    assert missing.error == f"{tmp_path}/photos/none.jpg: no such file"
    assert empty.error == f"{path}::line 9 has no path."
    with pytest.warns(VertebraWarning, match="an earlier row's path: 2"):
        assert len(read(open_source(table(tmp_path / "t.csv", [rows[0]] * 3)))) == 3


def test_untidy_tables(tmp_path):
    fill(tmp_path, ["a,b.jpg", "c d.jpg", "e/f.jpg"])
    rows = ["a,b.jpg", " c d.jpg", "e\\f.jpg", f"file://{tmp_path}/c%20d.jpg"]
    expected = [f"{tmp_path}/{name}" for name in ("a,b.jpg", "c d.jpg", "e/f.jpg", "c d.jpg")]
    for options in ({}, {"delimiter": "\t"}, {"delimiter": ";"}, {"lineterminator": "\r"}):
        path = table(tmp_path / "t.tsv", rows, "File Name", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert names(open_source(path)) == expected
    text = path.read_bytes()
    for changed in (b"\xef\xbb\xbf" + text, text.decode().encode("utf-16")):
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert names(open_source(path)) == expected
    path = table(tmp_path / "t.csv", ["ftp://x/1.jpg", "e/f.jpg", "a\0b.jpg".replace("\0", "?")], "picture")
    ftp, there, _ = read(open_source(path, path_column="Picture"))
    assert "of addresses, s3://" in ftp.error
    assert there.content
    (tmp_path / "e" / "g.jpg").write_bytes(photo("g"))
    path = table(tmp_path / "t.csv", ["g.jpg"])
    assert names(open_source(path, image_root=str(tmp_path / "e"))) == [f"{tmp_path}/e/g.jpg"]


@pytest.mark.no_cover  # tracing makes each allocation that is traced slower still
def test_a_table_of_many_rows_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vertebra.sources.listing.PART_PHOTOS", 1024)
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write("path,label\n")
        file.writelines(f"s3://bucket/{'long/' * 30}{n}.jpg,{n}\n" for n in range(10_000))
    tracemalloc.start()
    try:
        source = open_source(path, chunk_photos=16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source.photos == 10_000
    assert source.chunk(500).listed()[3].name.endswith("/8003.jpg")
    assert (
        peak < 2_500_000
    )  # as one part they take 5.4 MB, in parts of 1,024 a quarter; what tells repeated ones included


def test_web_addresses_are_downloaded(tmp_path):
    fill(tmp_path, ["a.jpg"])
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            host = f"http://127.0.0.1:{server.server_port}"
            there, missing = read(open_source(table(tmp_path / "t.csv", [f"{host}/a.jpg", f"{host}/b.jpg"])))
            (alone,) = read(open_source(f"{host}/a.jpg"))
        finally:
            server.shutdown()
    assert there.content == alone.content == photo("a.jpg")
    assert missing.error == f"{host}/b.jpg cannot be fetched (404 File not found)."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path\n", "lists no photos"),
        (b"", "lists no photos"),
        (b"sep=,\npath,b\n\0", "it holds NUL bytes"),
        (b"n,m\n1,2\n", r"no column 'path' \(it has n, m\)"),
        (b"path,file\n1.jpg,2.jpg\n", "2 columns that may be the path: path, file"),
        (b"path,path\n1.jpg,2.jpg\n", "Give them different names"),
        (b"path,n\n1.jpg\n", "it has 1 fields"),
        (b"path\n1.jpg\n2.jpg\n", "none of its first photos is there"),
        (b"path\ns3://key:secret@bucket/1.jpg\n", r"t\.csv::line 2: the s3:// address has credentials in it"),
        (b"path\nhttps://me:secret@host/1.jpg\n", r"t\.csv::line 2: the https:// address has credentials in it"),
        (b"PK\x03\x04" + bytes(50), "Excel"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(VertebraError, match=message) as caught:
        open_source(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_path_column_that_is_not_there_names_the_nearest(tmp_path):
    path = table(tmp_path / "t.csv", ["1.jpg"], "picture")
    with pytest.raises(UsageError, match=r"no column 'pictures'.*Did you mean 'picture'"):
        open_source(path, path_column="pictures")


def test_a_parquet_table_of_paths_is_read_by_rows(tmp_path):
    fill(tmp_path, [f"{n}.jpg" for n in range(30)])
    path = tmp_path / "t.parquet"
    values = [f"{n}.jpg" for n in range(30)]
    values[4], values[5] = None, "gone.jpg"
    parquet.write_table(pyarrow.table({"file_name": values, "score": [0.5] * 30}), path, row_group_size=8)
    source = open_source(path, chunk_photos=5)
    assert (source.kind, source.photos) == ("table", 30)
    records = read(source)
    assert [record.name for record in records] == [
        f"{path}::4" if value is None else f"{tmp_path}/{value}" for value in values
    ]
    assert [n for n, record in enumerate(records) if record.error] == [4, 5]
    parquet.write_table(pyarrow.table({"file_name": values}), path)
    with pytest.raises(StorageError, match="has changed since it was listed"):
        read(source)
    parquet.write_table(pyarrow.table({"file_name": ["none.jpg"]}), path)
    with pytest.raises(DataError, match="none of its first photos is there"):
        open_source(path)
    parquet.write_table(pyarrow.table({"file_name": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(DataError, match="has no rows"):
        open_source(path)
    parquet.write_table(pyarrow.table({"file_name": ["1.jpg"], "n": [1]}), path)
    with pytest.raises(UsageError, match=r"'n' has neither text nor bytes \(its type is int64\)"):
        open_source(path, path_column="n")


@pytest.mark.parametrize(
    ("columns", "kind", "expected"),
    [
        ({"path": ["1.jpg"], "md5": [bytes(16)], "embedding": [bytes(8192)]}, "table", ["{folder}/1.jpg"]),
        ({"path": ["1.jpg"], "image": [JPEG]}, "parquet", ["1.jpg"]),
        ({"path": ["1.jpg"], "jpg": [None]}, "parquet", ["1.jpg"]),
        ({"md5": [b"0123456789abcdef"], "x": [JPEG]}, "parquet", ["{folder}/t.parquet::0"]),
        ({"anything": [b""], "n": [1]}, "parquet", ["{folder}/t.parquet::0"]),
        ({"anything": [b"damaged"]}, "parquet", ["{folder}/t.parquet::0"]),
    ],
)
def test_the_column_of_photos_is_found_among_others_of_bytes(tmp_path, columns, kind, expected):
    fill(tmp_path, ["1.jpg"])
    is_text = {name: isinstance(values[0], str | int) for name, values in columns.items()}
    arrays = {name: pyarrow.array(v, None if is_text[name] else pyarrow.binary()) for name, v in columns.items()}
    parquet.write_table(pyarrow.table(arrays), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert (source.kind, names(source)) == (kind, [name.format(folder=tmp_path) for name in expected])


def test_two_columns_of_photos_are_refused(tmp_path):
    parquet.write_table(pyarrow.table({"image": [JPEG], "thumb": [JPEG + b"1"]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="2 columns of photos: 'image', 'thumb'"):
        open_source(tmp_path / "t.parquet")
    assert read(open_source(tmp_path / "t.parquet", path_column="thumb"))[0].content == JPEG + b"1"


def test_parquet_files_with_bytes_are_one_source(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number, rows in enumerate((7, 0, 12)):
        content = [{"bytes": photo(f"{number}-{row}"), "path": "image.jpg"} for row in range(rows)]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        parquet.write_table(
            pyarrow.table({"image": pyarrow.array(content, kind)}), folder / f"{number}.parquet", row_group_size=5
        )
    (folder / "_metadata.parquet.d").mkdir()
    source = open_source(folder, chunk_photos=4)
    assert (source.kind, source.photos) == ("parquet", 19)
    records = read(source)
    assert [record.name for record in records] == [
        f"{folder}/{number}.parquet::{row}" for number, rows in ((0, 7), (2, 12)) for row in range(rows)
    ]
    assert [record.content for record in records] == [
        photo(f"{number}-{row}") for number, rows in ((0, 7), (2, 12)) for row in range(rows)
    ]
    parquet.write_table(pyarrow.table({"path": ["1.jpg"]}), folder / "3.parquet")
    with pytest.raises(UsageError, match=r"0\.parquet has the bytes of photos, and .*3\.parquet their paths"):
        open_source(folder)


# --- in S3 ------------------------------------------------------------------------------------------------------------


def test_each_kind_is_read_from_s3(s3, tmp_path):
    fill(tmp_path / "photos", ["a b/1.jpg", "a b/_2.jpg", "per%20cent.JPG", "deep/er/3.png", ".hidden/x.jpg"])
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    (tmp_path / "photos" / "notes.txt").write_text("none")
    uri = s3.upload(tmp_path / "photos", "photos")
    with pytest.warns(VertebraWarning, match=r"left out: 1 \.txt"):
        source = open_source(uri, index=Location(f"{s3.uri}/index"), chunk_photos=2)
    records = read(source)
    expected = ["a b/1.jpg", "a b/_2.jpg", "deep/er/3.png", "empty.jpg", "per%20cent.JPG"]
    assert [record.name for record in records] == [f"{uri}/{name}" for name in expected]
    assert [record.error for record in records if record.error] == [f"{uri}/empty.jpg is empty"]
    assert "index/inputs/part-00000.parquet" in s3.keys("index")
    s3.client.delete_object(Bucket=s3.name, Key="photos/deep/er/3.png")
    assert "there is no such file" in read(source)[2].error

    shards = [s3.put(f"s/{n:03}.tar", shard(tmp_path / "x.tar", [f"{n}.jpg"]).read_bytes()) for n in range(3)]
    for given in (f"{s3.uri}/s/{{000..002}}.tar", f"{s3.uri}/s/*.tar", f"{s3.uri}/**/00[!9].tar", f"{s3.uri}/s"):
        assert names(open_source(given)) == [f"{file}::{n}.jpg" for n, file in enumerate(shards)]

    rows = f"path\na b/1.jpg\n{s3.uri}/photos/a b/_2.jpg\n{tmp_path}/photos/per%20cent.JPG\n"
    s3.put("photos/t.csv", rows.encode())
    first, second, third = read(open_source(f"{uri}/t.csv"))
    assert (first.name, second.name) == (f"{uri}/a b/1.jpg", f"{uri}/a b/_2.jpg")
    assert [first.content, second.content, third.content] == [photo(n) for n in ("1.jpg", "_2.jpg", "per%20cent.JPG")]

    content = pyarrow.table({"image": [photo("1"), photo("2")], "path": ["1", "2"]})
    parquet.write_table(content, tmp_path / "x.parquet")
    file = s3.put("p/x.parquet", (tmp_path / "x.parquet").read_bytes())
    assert names(open_source(file)) == ["1", "2"]


def test_what_is_missing_in_s3_is_one_line(s3):
    for given in (f"{s3.uri}/none", f"{s3.uri}/none.tar", "s3://no-such-bucket-anywhere/x", f"{s3.uri}/none/*.tar"):
        with pytest.raises(VertebraError) as caught:
            open_source(given)
        assert "\n" not in str(caught.value)
        assert given.partition("/*")[0] in str(caught.value)
