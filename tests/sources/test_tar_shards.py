"""WebDataset shards: all photos, in order, once; what is damaged, doubled or a link is told."""

import gzip
import io
import pickle
import subprocess
import tarfile
import tracemalloc

import pytest

from vertebra.sources.tar_reader import BLOCK, DamagedTarError, TarReader
from vertebra.sources.tar_shards import TarChunk, tar_index, webdataset_key
from vertebra.storage import Location, StorageError

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)


def add(archive, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def shard(path, members, format=tarfile.PAX_FORMAT):
    """A tar of (name, content) or (name, content, fields)."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, content, *fields in members:
            add(archive, name, content, **(fields[0] if fields else {}))
    return path


def chunk(path):
    location = Location(str(path))
    return TarChunk(location, location.state())


def read(path):
    return list(chunk(path).read())


def names(records, path):
    return [record.name.removeprefix(f"{path}::") for record in records]


def photo(number):
    return JPEG + str(number).encode()


def test_photos_are_read_in_order_and_their_sidecars_are_not(tmp_path):
    members = [
        (f"cat/{n}.{end}", content)
        for n in range(5)
        for end, content in (("jpg", photo(n)), ("cls", b"1"), ("json", b'{"a": 1}'), ("txt", b"a cat"))
    ]
    path = shard(tmp_path / "a-000.tar", members)
    found = read(path)
    assert names(found, path) == [f"cat/{n}.jpg" for n in range(5)]
    assert [record.content for record in found] == [photo(n) for n in range(5)]
    assert not any(record.error for record in found)


ODD = ["a b.jpg", "new\nline.jpg", "per%20cent.jpg", "x::y.jpg", "umlaut-ä-日本.jpg", "./dot/1.jpg", "a.b.c.jpg"]
ODD += [f"{'long/' * 60}{'n' * 120}.jpg", "UPPER.JPEG", "no-suffix", "photo.bin"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_odd_names_are_as_tarfile_gives_them(tmp_path, format):
    path = shard(tmp_path / "odd.tar", [(name, photo(n)) for n, name in enumerate([*ODD, "bytes-\udcff.jpg"])], format)
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
        expected = {member.name: archive.extractfile(member).read() for member in archive}
    found = read(path)
    assert dict(zip(names(found, path), (record.content for record in found), strict=True)) == expected
    assert len(expected) == len(ODD) + 1


def test_hidden_files_folders_and_what_is_no_photo_are_left_out(tmp_path):
    path = shard(
        tmp_path / "a.tar",
        [
            ("cat", b"", {"type": tarfile.DIRTYPE}),
            ("._1.jpg", JPEG),
            (".hidden/1.jpg", JPEG),
            ("__MACOSX/cat/1.jpg", JPEG),
            ("1.jpg", JPEG),
            ("1.npy", b"\x93NUMPY"),
            ("pipe", b"", {"type": tarfile.FIFOTYPE}),
        ],
    )
    assert names(read(path), path) == ["1.jpg"]


def test_links_and_sparse_photos_have_an_error_and_lose_nothing_behind_them(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(photo(1))
    (tmp_path / "in" / "2.jpg").hardlink_to(tmp_path / "in" / "1.jpg")
    (tmp_path / "in" / "3.jpg").symlink_to("1.jpg")
    with (tmp_path / "in" / "4.jpg").open("wb") as file:
        for number in range(40):  # more holes than the first header holds
            file.seek(number * 131_072)
            file.write(photo(number))
    (tmp_path / "in" / "5.jpg").write_bytes(photo(5))
    order = [f"{n}.jpg" for n in range(1, 6)]
    for format in ("gnu", "pax"):
        path = tmp_path / f"{format}.tar"
        subprocess.run(["tar", "-C", tmp_path / "in", f"--format={format}", "-Scf", path, *order], check=True)
        found = read(path)
        assert names(found, path) == order, format
        assert [record.content for record in found] == [photo(1), None, None, None, photo(5)]
        assert "a link to 1.jpg" in found[1].error
        assert "a link to 1.jpg" in found[2].error
        assert "sparse" in found[3].error


def test_a_name_that_stands_there_twice_is_told(tmp_path):
    path = shard(tmp_path / "a.tar", [("1.jpg", photo(1)), ("1.jpg", photo(2)), ("2.jpg", photo(3))])
    first, second, third = read(path)
    assert (first.content, third.content) == (photo(1), photo(3))
    assert second.name == first.name
    assert "twice" in second.error


def test_an_empty_photo_has_an_error(tmp_path):
    path = shard(tmp_path / "a.tar", [("1.jpg", b""), ("2.jpg", photo(2))])
    assert [record.error for record in read(path)] == [f"{path}::1.jpg is empty", None]


def test_archives_that_were_joined_are_read_to_the_end(tmp_path):
    first = shard(tmp_path / "1.tar", [("1.jpg", photo(1))]).read_bytes()
    second = shard(tmp_path / "2.tar", [("2.jpg", photo(2))]).read_bytes()
    path = tmp_path / "joined.tar"
    path.write_bytes(first + second)
    assert names(read(path), path) == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize("compressed", [False, True])
def test_wherever_a_shard_is_cut_that_is_told_and_the_photos_before_are_read(tmp_path, compressed):
    whole = shard(tmp_path / "whole.tar", [(f"{n}.jpg", photo(n)) for n in range(3)]).read_bytes()
    end = 3 * (BLOCK + BLOCK)  # each photo has less than a block
    for cut in [*range(0, end, 100), BLOCK, 2 * BLOCK, end]:
        path = tmp_path / ("cut.tar.gz" if compressed else "cut.tar")
        path.write_bytes(gzip.compress(whole[:cut]) if compressed else whole[:cut])
        *photos, last = read(path)
        complete = sum(cut >= n * 2 * BLOCK + BLOCK + len(photo(n)) for n in range(3))
        assert [record.content for record in photos] == [photo(n) for n in range(complete)], cut
        assert last.name == str(path)
        assert ("cut off" if cut else "empty") in last.error, (cut, last.error)


def test_a_gzip_stream_that_is_cut_or_damaged_is_told(tmp_path):
    whole = shard(tmp_path / "whole.tar", [(f"{n}.jpg", photo(n)) for n in range(30)]).read_bytes()
    packed = gzip.compress(whole)
    path = tmp_path / "a.tgz"
    path.write_bytes(packed)
    assert len(read(path)) == 30
    for content in (packed[: len(packed) // 2], packed[:-4], b"no gzip" * 100, packed[:-8] + b"12345678"):
        path.write_bytes(content)
        last = read(path)[-1]
        assert last.name == str(path)
        assert "cut off" in last.error or "damaged" in last.error


def test_a_damaged_header_is_told_and_not_taken_for_the_end(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{n}.jpg", photo(n)) for n in range(3)])
    content = bytearray(path.read_bytes())
    content[2 * BLOCK] ^= 1  # of the second name, so that the checksum is another
    path.write_bytes(content)
    first, last = read(path)
    assert first.content == photo(0)
    assert last.error.startswith(f"{path} is damaged: there is no header at byte 1,024, behind 0.jpg")


def test_a_file_that_is_no_tar_is_told(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"<html>" + b"x" * 5000)
    (record,) = read(path)
    assert "is damaged: there is no header at byte 0" in record.error


def test_a_shard_without_photos_is_told(tmp_path):
    path = shard(tmp_path / "a.tar", [("1.txt", b"text"), ("1.npy", b"x")])
    assert [record.error for record in read(path)] == [f"{path} has no photo: none of its 2 members is a photo."]


def test_a_changed_or_missing_shard_is_refused(tmp_path):
    path = shard(tmp_path / "a.tar", [("1.jpg", photo(1))])
    listed = pickle.loads(pickle.dumps(chunk(path)))
    shard(path, [("1.jpg", photo(1)), ("2.jpg", photo(2)), ("3.jpg", bytes(20_000))])
    with pytest.raises(StorageError, match="has changed since it was listed"):
        list(listed.read())
    path.unlink()
    with pytest.raises(StorageError, match="no such file"):
        list(listed.read())


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{n}.jpg", photo(n)) for n in range(3)])
    records = chunk(path).read()
    next(records)
    path.with_name("b").write_bytes(path.read_bytes())
    path.with_name("b").replace(path)
    with pytest.raises(StorageError, match="has changed"):
        list(records)


def test_memory_does_not_grow_with_the_shard(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{n}.jpg", JPEG + bytes(500_000)) for n in range(60)])
    tracemalloc.start()
    try:
        assert sum(1 for _ in chunk(path).read()) == 60
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000  # 30 MB of photos


def test_the_key_is_webdatasets():
    assert webdataset_key("cat/1.seg.png") == ("cat/1", "seg.png")
    assert webdataset_key("a.b/c/1.jpg") == ("a.b/c/1", "jpg")
    assert webdataset_key("1") == ("1", "")
    assert webdataset_key("cat/.1.jpg") == ("", "")


def test_a_shard_is_read_from_s3(s3, tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{n}.jpg", photo(n)) for n in range(4)])
    location = Location(s3.put("shards/a 1.tar", path.read_bytes()))
    listed = TarChunk(location, location.state())
    assert [record.content for record in listed.read()] == [photo(n) for n in range(4)]
    assert [m.name for m in tar_index(location)] == [f"{n}.jpg" for n in range(4)]
    s3.put("shards/a 1.tar", path.read_bytes()[:1024] + path.read_bytes())
    with pytest.raises(StorageError, match="has changed"):
        list(listed.read())


# --- the index --------------------------------------------------------------------------------------------------------


def test_the_index_has_where_each_photo_lies_and_its_label(tmp_path):
    path = shard(
        tmp_path / "a.tar",
        [
            ("1.cls", b"7\n"),  # before its photo
            ("1.jpg", photo(1)),
            ("2.jpg", photo(2)),
            ("2.json", b'{"label": "cat", "other": 3}'),
            ("3.jpg", photo(3)),
            ("3.txt", b"a caption"),
            (f"{'d' * 150}/4.jpg", photo(4)),
            ("d/5.jpg", photo(5)),
            ("d/5.cls", "Katze ä".encode()),
        ],
    )
    content = path.read_bytes()
    for _ in range(2):  # the second time from the cache
        found = tar_index(Location(str(path)))
        assert [content[m.offset : m.offset + m.size] for m in found] == [photo(n) for n in range(1, 6)]
        assert [list(m.labels.values()) for m in found] == [["7"], ["cat"], [], [], ["Katze ä"]]
        assert [m.key for m in found] == ["1", "2", "3", f"{'d' * 150}/4", "d/5"]
    with tarfile.open(path) as archive:
        assert {m.name: m.offset_data for m in archive if m.name.endswith("jpg")} == {m.name: m.offset for m in found}


def test_the_index_reads_headers_alone_and_the_cache_knows_the_version(tmp_path):
    path = shard(tmp_path / "a.tar", [("1.jpg", JPEG + bytes(100_000)), ("1.cls", b"1")])
    whole = path.read_bytes()

    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            found = super().read(size)
            Counting.count += len(found)
            return found

    assert [m.name for m in TarReader(Counting(whole))] == ["1.jpg", "1.cls"]
    assert Counting.count < 25_000  # the padding at the end, too
    assert [m.name for m in tar_index(Location(str(path)))] == ["1.jpg"]
    shard(path, [("2.jpg", photo(2))])
    assert [m.name for m in tar_index(Location(str(path)))] == ["2.jpg"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", JPEG), ("1.jpg", JPEG)], "twice"),
        ([("1.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "2.jpg"})], "is a link"),
        ([("1.jpg", JPEG), ("1.cls", b"\xff\xfe")], "no text in UTF-8"),
        ([("1.jpg", JPEG), ("1.json", b"{")], "no JSON"),
    ],
)
def test_what_an_index_cannot_have_is_refused(tmp_path, members, message):
    with pytest.raises(StorageError, match=message):
        tar_index(Location(str(shard(tmp_path / "a.tar", members))))


def test_no_index_is_made_of_a_shard_that_is_cut_or_compressed(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{n}.jpg", photo(n)) for n in range(3)])
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(StorageError, match="gunzip"):
        tar_index(Location(str(packed)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StorageError, match="cut off"):
        tar_index(Location(str(path)))


def test_sizes_that_cannot_be_are_damage():
    header = bytearray(tarfile.TarInfo("1.jpg").tobuf())
    header[124:136] = b"\x80" + (10**18).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    with pytest.raises(DamagedTarError, match="cut off"):
        list(TarReader(io.BytesIO(header + bytes(2000))))


def test_a_remote_shard_is_listed_by_its_copy(faulty_s3, tmp_path, monkeypatch):
    """A few requests, not one for each photo; also where the cache has no room for it."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    path = shard(tmp_path / "a.tar", [(f"{n}.jpg", bytes(100_000)) for n in range(30)])
    faulty_s3.objects["bucket/a.tar"] = path.read_bytes()
    found = tar_index(Location("s3://bucket/a.tar"))
    assert [m.name for m in found] == [f"{n}.jpg" for n in range(30)]
    assert sum(request.startswith("GET") for request in faulty_s3.requests) == 1
    faulty_s3.requests.clear()
    faulty_s3.objects["bucket/b.tar"] = path.read_bytes()
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "0.0001")
    assert tar_index(Location("s3://bucket/b.tar")) == found
    assert sum(request.startswith("GET") for request in faulty_s3.requests) <= 2
