"""The places of photos: their text gives them again, whatever is in their names, and they can be sorted and pickled."""

import pickle
from pathlib import Path

import pytest
from PIL import Image

from vertebra.decoding import open_image
from vertebra.errors import ImageError, UsageError
from vertebra.report import PhotoLinks
from vertebra.report.thumbnails import NO_FILE
from vertebra.sources import photo_place
from vertebra.sources.photo_place import StoredPhoto, file_of, normalized, parse_place
from vertebra.storage import StorageError


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "a shard::0.tar"
    path.write_bytes(b"")
    return str(path)


@pytest.mark.parametrize("member", ["cat/1.jpg", "a::b.jpg", "x.tar::y.jpg", "line\nbreak.png", "\udcff.jpg", " %41"])
def test_the_text_gives_the_place_again(shard, member):
    for place in (StoredPhoto(shard, member), StoredPhoto("s3://bucket/a b/0.TAR", member)):
        assert parse_place(str(place)) == place
        assert pickle.loads(pickle.dumps(place)) == place
        assert hash(parse_place(str(place))) == hash(place)
        assert file_of(place) == place.file


@pytest.mark.parametrize("text", ["photos/cat/1.jpg", "/a::b/1.jpg", "/no such.tar::cat/1.jpg", "a\0.tar::b", ""])
def test_what_is_no_file_with_members_is_a_path(text):
    assert parse_place(text) == Path(text)


def test_remote_files():
    place = parse_place("s3://bucket/cat/1.jpg")
    assert (place, place.name, str(place)) == (StoredPhoto("s3://bucket/cat/1.jpg"), "1.jpg", "s3://bucket/cat/1.jpg")
    assert place.relative_to("s3://bucket") == place.relative_to("s3://bucket/") == "cat/1.jpg"
    with pytest.raises(ValueError, match="is not in"):
        place.relative_to("s3://buck")
    assert place.absolute() is place


def test_a_file_that_is_written_as_a_member_is_refused(shard, tmp_path):
    Path(f"{shard}::1.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a shard::0\.tar::1\.jpg is a file, and may be 1\.jpg in .* Rename the file"):
        parse_place(f"{shard}::1.jpg")


def test_they_are_sorted_with_paths_first_and_rows_by_number():
    places = [StoredPhoto("a.parquet", "10"), StoredPhoto("a.parquet", "9"), Path("z"), StoredPhoto("s3://b/1.jpg")]
    assert sorted(places) == [places[2], places[1], places[0], places[3]]
    assert sorted([*reversed(places)]) == sorted(places)
    assert normalized(Path("a/../b")) == Path("b") and normalized(places[0]) is places[0]


def test_local_ones_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert StoredPhoto("x.tar", "1").absolute() == StoredPhoto(str(tmp_path / "x.tar"), "1")


class Stored:
    """A `StoredFile` whose content is given."""

    def __init__(self, content):
        self.content = content

    def __str__(self):
        return "shard.tar::1.png"

    def read_bytes(self):
        if self.content is None:
            raise UsageError("shard.tar is away")
        return self.content


def test_it_is_decoded_as_a_file(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "1.png")
    content = (tmp_path / "1.png").read_bytes()
    assert open_image(Stored(content)).tobytes() == open_image(tmp_path / "1.png").tobytes()
    with pytest.raises(ImageError, match=r"^shard\.tar::1\.png is"):
        open_image(Stored(b"no photo"))
    with pytest.raises(ImageError, match=r"^shard\.tar is away$"):
        open_image(Stored(None))


def test_no_link_leads_to_it(tmp_path):
    place = StoredPhoto("s3://bucket/x.tar", "cat/1.jpg")
    links = PhotoLinks(tmp_path, [place, tmp_path / "a" / "1.jpg"])
    assert links.link(place) == NO_FILE and links.entry(place) == ("s3://bucket/x.tar::cat/1.jpg", NO_FILE)
    assert links.address == "a/"


def test_storage_that_is_away_for_a_moment_is_waited_for(monkeypatch):
    place = StoredPhoto("s3://bucket/1.jpg")
    now, errors = [0.0], [StorageError("x", is_transient=True)] * 3
    monkeypatch.setattr(photo_place.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(photo_place.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def read(location):
        if errors:
            raise errors.pop()
        return b"photo"

    monkeypatch.setattr(photo_place, "read_kept", read)
    assert place.read_bytes() == b"photo"
    assert now == [1.0 + 2.0 + 4.0]
    errors += [StorageError("away", is_transient=True)] * 99
    with pytest.raises(StorageError, match="away"):
        place.read_bytes()
    assert 60 < now[0] < 90
    errors[:] = [StorageError("denied")]
    before = now[0]
    with pytest.raises(StorageError, match="denied"):
        place.read_bytes()
    assert now[0] == before
