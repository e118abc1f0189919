"""Rows of float16 in a folder: as they were put, or not at all."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("torch")

from vertebra import cache
from vertebra.errors import VertebraWarning
from vertebra.train import feature_store as store_module
from vertebra.train.feature_files import NotFiniteError, decode, encode
from vertebra.train.feature_store import FeatureStore

KEYS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(120)]
WIDTH = 40


def row_of(key, width=WIDTH):
    return decode(encode(np.random.default_rng(int(key[:8], 16)).normal(0, 1, width).astype(np.float32)))


def store_at(folder, *, keys=KEYS, context="here"):
    store = FeatureStore(folder, context)
    for key in keys:
        store.put(key, row_of(key))
    store.close()
    return store


def known(store, keys=KEYS):
    return {key: row.tolist() for key in keys if (row := store.get(key)) is not None}


def expected(keys=KEYS):
    return {key: row_of(key).tolist() for key in keys}


@pytest.fixture(autouse=True)
def _untold(monkeypatch):
    monkeypatch.setattr(cache, "_warned", set())


@pytest.fixture
def contents(tmp_path):
    """Suffix -> bytes of a sound pair of files."""
    store_at(tmp_path / "sound")
    return {path.suffix: path.read_bytes() for path in (tmp_path / "sound").iterdir()}


def write(folder, contents):
    folder.mkdir(exist_ok=True)
    for suffix, content in contents.items():
        (folder / f"a{suffix}").write_bytes(content)
    return folder


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-7, 1.0, 7e4, 1e30])
def test_no_value_overflows_or_vanishes(scale):
    values = np.array([scale, -scale / 3, scale * 1e-7, 0.0], np.float32)
    exponent, stored = encode(values)
    assert np.isfinite(stored).all() and (stored[:2] != 0).all() and stored[3] == 0
    found = decode((exponent, stored))
    assert found[:2] == pytest.approx(values[:2], rel=2**-11 if scale > 1e-36 else 1e-2)
    assert found[2] == pytest.approx(values[2], rel=1e-2) or scale < 1e-30
    assert (decode(encode(found)) == found).all()  # rounded once


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    with pytest.raises(NotFiniteError):
        FeatureStore(tmp_path, "here").put(KEYS[0], np.array([1.0, value], np.float32))


def test_rows_of_all_scales_come_back_in_blocks(tmp_path):
    store = FeatureStore(tmp_path / "a", "here")
    rows = {key: row_of(key) * 10.0 ** (number % 60 - 30) for number, key in enumerate(KEYS)}
    for key, row in rows.items():
        store.put(key, row)
    asked = [KEYS[5], None, *KEYS[::-1], KEYS[5]]
    found = store.rows(asked)
    right = np.stack([np.zeros(WIDTH) if key is None else decode(encode(rows[key])) for key in asked])
    assert found.shape == (123, WIDTH)
    assert (found.to_memory() == right).all()
    blocks = [(rows, (block * scale).numpy().copy()) for rows, block, scale in found.blocks(7)]
    assert (np.concatenate([block for _, block in blocks]) == right).all()
    mask = np.arange(123) % 3 == 1
    assert (found[mask][2:].to_memory() == right[mask][2:]).all()
    order = found.storage_order()
    assert sorted(order.tolist()) == list(range(123)) and (found[order].to_memory() == right[order]).all()
    small = found[np.abs(right).max(1) < 1e3]
    weight = np.random.default_rng(0).normal(0, 1, (WIDTH, 3)).astype(np.float32)
    assert small @ weight == pytest.approx(small.to_memory() @ weight, rel=1e-4, abs=1e-4)
    store.close()


# --- promises -----------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_put(tmp_path):
    store_at(tmp_path / "below" / "a")
    store = FeatureStore(tmp_path / "below" / "a", "here")
    assert known(store) == expected()
    assert store.get("0" * 64) is None
    with pytest.raises(KeyError):
        store.rows(["0" * 64])
    assert store.rows([]).shape[0] == 0


# Bytes damaged, bytes cut off at the end, of one of the two files.
DAMAGE = [(count, suffix) for count in (1, 3, 300, 0) for suffix in (".index", ".f16")]


@pytest.mark.parametrize(("count", "suffix"), DAMAGE)
def test_what_is_damaged_is_never_given(tmp_path, contents, count, suffix, monkeypatch):
    said = []
    monkeypatch.setattr(cache, "warn", said.append)
    for seed in range(10):
        chance = random.Random(f"{count} {suffix} {seed}")
        damaged = bytearray(contents[suffix])
        for place in (chance.randrange(len(damaged)) for _ in range(count)):
            damaged[place] ^= chance.randrange(1, 256)
        if not count:
            del damaged[chance.randrange(len(damaged)) :]
        folder = write(tmp_path / str(seed), contents | {suffix: damaged})
        told = []
        for _ in range(3):  # as many processes
            cache._warned.clear()
            said.clear()
            store = FeatureStore(folder, "here")
            found = known(store)
            assert found == expected(found)
            for key in KEYS:
                if key not in found:
                    store.put(key, row_of(key))
            assert store.rows(KEYS).to_memory().tolist() == list(expected().values())
            store.close()
            told.append((len(said), len(KEYS) - len(found)))
        # An index that was cut off is like that of a process that was killed, which leaves no trace.
        assert told[0][0] == 1 or (count, suffix) == (0, ".index")
        assert told[0][1] <= (count or len(KEYS))
        assert told[2] == (0, 0)


def test_rows_of_another_context_are_not_given(tmp_path, contents):
    folder = write(tmp_path / "a", contents)
    with pytest.warns(VertebraWarning, match=r"a is damaged\. What it held is made again; no result") as told:
        store = FeatureStore(folder, "another network")
        assert known(store) == {}
        store.close()
    assert len(told) == 1 and list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "circle of links", "dangling link", "folders", "pipes", "read only"])
def test_something_else_in_its_place(tmp_path, kind, monkeypatch):
    folder = tmp_path / "a"
    if kind == "file":
        folder.write_bytes(b"")
    elif kind.endswith(("link", "links")):
        folder.symlink_to(folder if kind.startswith("circle") else tmp_path / "file" / "none")
        (tmp_path / "file").write_bytes(b"")
    elif kind == "read only":
        monkeypatch.setattr(store_module.ShardWriter, "open", _refuse)
    else:
        folder.mkdir()
        for suffix in (".index", ".f16"):
            (folder / f"a{suffix}").mkdir() if kind == "folders" else os.mkfifo(folder / f"a{suffix}")
    store = store_at(folder)
    assert known(store) == expected()
    assert store.rows(KEYS).to_memory().tolist() == list(expected().values())
    again = known(FeatureStore(folder, "here"))
    assert again == (expected() if kind in ("folders", "pipes") else {})


def _refuse(*arguments):
    raise PermissionError


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch):
    """Half a row is written, and then nothing for some time."""
    store = store_at(tmp_path / "a", keys=KEYS[:10])
    append = store_module.ShardWriter.append

    def full(writer, values, records):
        append(writer, values, records[:0])
        writer._index.append(records[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.ShardWriter, "append", full)
    for key in KEYS[10:20]:
        store.put(key, row_of(key))
    store.save()
    assert known(store) == expected(KEYS[:20])
    monkeypatch.setattr(store_module.ShardWriter, "append", append)
    store.put(KEYS[20], row_of(KEYS[20]))
    store.close()
    found = known(FeatureStore(tmp_path / "a", "here"))
    assert found == expected(found) and set(found) >= {*KEYS[:10], KEYS[20]}


def test_files_that_are_deleted_meanwhile(tmp_path):
    store = store_at(tmp_path / "a", keys=KEYS[:1])
    store.put(KEYS[1], row_of(KEYS[1]))
    store.save()
    kept = store.rows(KEYS[:2])
    shutil.rmtree(tmp_path / "a")
    assert kept.to_memory().tolist() == list(expected(KEYS[:2]).values())
    store.put(KEYS[2], row_of(KEYS[2]))
    store.close()
    assert known(FeatureStore(tmp_path / "a", "here")) == expected(KEYS[2:3])


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_feature_store import KEYS, FeatureStore, row_of
store = FeatureStore(Path(sys.argv[2]), "here")
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    store.put(KEYS[number % len(KEYS)], row_of(KEYS[number % len(KEYS)]))
    store.save()
    print(number, flush=True)
store.close()
"""


def start(folder, first, end):
    command = [sys.executable, "-c", WRITER, os.path.dirname(__file__), str(folder), str(first), str(end)]  # noqa: PTH120
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_several_processes_at_once(tmp_path):
    running = [start(tmp_path / "a", 40 * part, 40 * part + 40) for part in range(3)]
    for process in running:
        process.communicate()
    assert [process.returncode for process in running] == [0, 0, 0]
    assert known(FeatureStore(tmp_path / "a", "here")) == expected()
    count = len(list((tmp_path / "a").glob("*.index")))
    store_at(tmp_path / "a", keys=["ab" * 32])  # which appends to one of them
    assert len(list((tmp_path / "a").glob("*.index"))) == count


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes(tmp_path, recwarn):
    for attempt in range(3):
        with start(tmp_path / "a", 0, 10**6) as process:
            process.stdout.readline()
            time.sleep(0.05 * attempt)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        found = known(FeatureStore(tmp_path / "a", "here"))
        assert found and found == expected(found)
    assert not [entry for entry in recwarn.list if issubclass(entry.category, VertebraWarning)]
