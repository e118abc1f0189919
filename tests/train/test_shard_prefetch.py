"""The next shards are copied while the present ones train: in the background, within the cache."""

import threading

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pyarrow")
from packed_photos import pack_tar

from vertebra.sources.photo_place import StoredPhoto
from vertebra.train import Settings
from vertebra.train.batch_loader import batches_of_epoch
from vertebra.train.shard_prefetch import ShardPrefetch

SHARDS, EACH = 6, 5


@pytest.fixture
def shards(faulty_s3, tmp_path, monkeypatch):
    """Six shards of 30,720 bytes with five photos each on a server, and a cache of the test's own."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    for number in range(SHARDS):
        path = pack_tar(tmp_path / "x.tar", [(f"{n}.png", b"x" * 1000, "cat") for n in range(EACH)])
        faulty_s3.objects[f"bucket/{number}.tar"] = path.read_bytes()
    return faulty_s3


def prefetch(**options):
    places = [StoredPhoto(f"s3://bucket/{shard}.tar", f"{n}.png") for shard in range(SHARDS) for n in range(EACH)]
    numbers = np.arange(SHARDS * EACH) // EACH
    settings = Settings.from_mapping({"data": "x", "method": "scratch", "batch_size": 5, **options}, "test")
    return ShardPrefetch(places, numbers, settings), numbers, settings


def fetched(shards):
    """The shards of which content was fetched since the last call, once no thread copies any more."""
    for thread in threading.enumerate():
        if thread.name == "vertebra-shards":
            thread.join(30)
    found = [
        request.split()[1].split("/")[-1]
        for request in shards.requests
        if request.startswith("GET") and request.endswith(".tar")
    ]
    shards.requests.clear()
    return [int(name.partition(".")[0]) for name in found]


def shards_of(batches, numbers):
    return [sorted(set(numbers[batch].tolist())) for batch in batches]


def test_each_window_has_been_copied_when_it_begins(shards):
    found, numbers, settings = prefetch(shuffle_shards=2)
    labels = np.zeros(len(numbers), np.int64)
    copied = set()
    for epoch in range(2):
        batches = batches_of_epoch(labels, settings, epoch, numbers)
        windows = [sorted(set(np.concatenate(batches[start : start + 2]).tolist())) for start in (0, 2, 4)]
        for number, batch in enumerate(batches):
            window = {int(numbers[photo]) for photo in windows[number // 2]}
            if (epoch, number) != (0, 0) and number % 2 == 0:
                assert window <= copied
            found.enter(epoch, batch)
            new = fetched(shards)
            assert not copied & set(new)
            copied |= set(new)
            assert number % 2 == 0 or not new
            assert len(copied) <= 2 * (number // 2 + 2) or epoch
    assert copied == set(range(SHARDS))


def test_no_more_than_the_cache_holds(shards, monkeypatch):
    size = len(shards.objects["bucket/0.tar"])
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", f"{3.5 * size / 1e9:.9f}")
    found, numbers, settings = prefetch(shuffle_shards=2)
    batch = batches_of_epoch(np.zeros(len(numbers), np.int64), settings, 0, numbers)[0]
    found.enter(0, batch)
    new = fetched(shards)
    assert len(new) == 3 and set(numbers[batch].tolist()) <= set(new[:2])


def test_what_fails_is_left_to_the_reading_and_stop_ends_it(shards):
    found, numbers, settings = prefetch(shuffle_shards=1)
    batches = batches_of_epoch(np.zeros(len(numbers), np.int64), settings, 0, numbers)
    del shards.objects[f"bucket/{numbers[batches[0][0]]}.tar"]
    found.enter(0, batches[0])
    assert fetched(shards) == []
    found.enter(0, batches[1])
    assert len(fetched(shards)) == 2
    found.stop()
