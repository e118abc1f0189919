"""Files by which a node tells that it sees the photos: of each folder, and of shards and tables as well."""

import shutil

import pytest

from vertebra.cluster.source_sample import sample_of, unseen
from vertebra.sources import open_source

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

FOLDERS = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def photos(tmp_path):
    """Six folders of few photos, after one of many."""
    for folder, count in (("0", 600), *((name, 5) for name in FOLDERS)):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "photos" / folder / f"{number:03}.jpg").write_bytes(b"photo" * (number + 1))
    return tmp_path / "photos"


def assert_each_is_seen(photos, source):
    sample = sample_of(source)
    assert unseen(sample) == ""
    for folder in FOLDERS:
        shutil.move(photos / folder, photos.parent / "away")
        assert unseen(sample).startswith(f"it does not see {photos}/{folder}/")
        shutil.move(photos.parent / "away", photos / folder)


def test_a_folder_that_is_missing_is_noticed_however_small(photos):
    assert_each_is_seen(photos, open_source(photos, chunk_photos=64))
    assert_each_is_seen(photos, open_source([photos / name for name in ("0", *FOLDERS)], chunk_photos=64))


def test_a_folder_of_shards_that_is_missing_is_noticed(photos):
    for path in list(photos.rglob("*.jpg")):
        path.rename(path.with_suffix(".tar"))
    assert_each_is_seen(photos, open_source(photos))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_folder_of_a_table_that_is_missing_is_noticed(photos, suffix):
    names = sorted(str(path) for path in photos.rglob("*.jpg"))
    table = photos.parent / f"table.{suffix}"
    if suffix == "csv":
        table.write_text("\n".join(["path", *names]))
    else:
        parquet.write_table(pyarrow.table({"path": names}), table, row_group_size=20)
    assert_each_is_seen(photos, open_source(table, chunk_photos=20))


def test_photos_of_a_table_that_are_missing_here_are_not_asked_for(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "there.jpg").write_bytes(b"photo")
    table = tmp_path / "table.csv"
    table.write_text("path\nhttp://127.0.0.1:9/a.jpg\np/none.jpg\np/there.jpg\nq/none.jpg\n")
    assert sample_of(open_source(table)) == ((f"{tmp_path}/p/there.jpg", 5),)
