"""`vertebra train --ray`: the features of a run whose photos are read on other nodes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import deadly_photo
from installed import needs
from ray_cluster import RayCluster

from vertebra.card import Preprocessing
from vertebra.data import ImageInfoCache, open_dataset
from vertebra.errors import UsageError, VertebraError
from vertebra.train import Settings, cluster_features, feature_actor
from vertebra.train.feature_actor import FeatureTask, PhotoChunk, _Computed
from vertebra.train.feature_store import FeatureStore

needs("ray")

PREPROCESSING = Preprocessing(32, 40, "bicubic")

DRIVER = """
import json, os, sys
from vertebra.cluster.ray_connection import ray_output_silenced
from vertebra.card import Preprocessing
from vertebra.data import open_dataset
from vertebra.train.dataset_features import compute_features
from pathlib import Path

out = os.fdopen(os.dup(1), "w")

def progress(task, done=0, total=None):
    print(json.dumps([task, done, total]), file=out, flush=True)

def main(data, body, ray):
    found = compute_features(open_dataset(data), Path(body), Preprocessing(32, 40, "bicubic"), progress, ray or None)
    infos = [[info.sha256, info.width, info.broken, info.remarks, info.edge] for info in found.infos]
    answer = {"computed": found.computed, "features": found.features.tolist(), "infos": infos}
    print(json.dumps(answer), file=out, flush=True)

with ray_output_silenced():
    main(*sys.argv[1:])
"""


def make_photos(folder, count):
    random = np.random.default_rng(0)
    for label in ("cat", "do g", "n\newt"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            size = (40 + number % 9, 48, 3)
            Image.fromarray(random.integers(0, 256, size, np.uint8)).save(folder / label / f"{number}::%.png")
    (folder / "cat" / "broken.png").write_bytes(b"no picture")
    (folder / "cat" / "twice.png").write_bytes((folder / "cat" / "1::%.png").read_bytes())
    return folder


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 30)


def start(data, body, address, cache):
    environment = os.environ | {"VERTEBRA_CACHE": str(cache)}
    command = [sys.executable, "-c", DRIVER, str(data), str(body), address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


@pytest.mark.slow
def test_features_are_those_of_this_machine_bit_for_bit(photos, tiny_model, tmp_path):
    here, _ = result(start(photos, tiny_model, "", tmp_path / "here"))
    there, err = result(start(photos, tiny_model, "local", tmp_path / "there"))
    assert err == ""
    # Of two equal photos at once, both may be computed.
    assert here.pop("computed") in (90, 91) and there.pop("computed") == 90
    assert there == here
    again, _ = result(start(photos, tiny_model, "local", tmp_path / "there"))
    assert again == here | {"computed": 0}
    # What the nodes found out is in this machine's caches, too.
    (kept,) = (tmp_path / "there" / "features").iterdir()
    for path in kept.iterdir():
        path.unlink()
    found, _ = result(start(photos, tiny_model, "", tmp_path / "there"))
    assert found.pop("computed") in (90, 91) and found == here


@pytest.mark.slow
def test_a_node_that_dies_costs_no_photo(tiny_model, tmp_path):
    data = make_photos(tmp_path / "photos", 400)
    here, _ = result(start(data, tiny_model, "", tmp_path / "here"))
    folder = Path("/tmp") / f"vf{os.getpid()}"
    with RayCluster(folder, nodes=2, environment={"VERTEBRA_CACHE": str(tmp_path / "nodes")}) as cluster:
        process = start(data, tiny_model, cluster.address, tmp_path / "there")
        for line in process.stdout:
            if json.loads(line)[1] > 0:
                break
        node = next(iter(cluster.nodes))
        cluster.pause(node)  # with photos in work
        time.sleep(1)
        cluster.kill(node)
        there, err = result(process)
    assert there["features"] == here["features"] and there["infos"] == here["infos"]
    assert "has died" in err and err.count("\n") <= 3


@pytest.mark.slow
def test_a_photo_of_which_processes_die_is_named(tiny_model, tmp_path):
    environment, folder = deadly_photo.made(tmp_path)
    command = [sys.executable, "-c", DRIVER, str(folder), str(tiny_model), "local"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert f"{folder}/red/deadly.png: the process that decoded it has died" in said


def test_an_actor_gives_up_what_processes_die_of(photos, tmp_path, monkeypatch):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    node = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7")
    monkeypatch.setattr(feature_actor, "ray_module", lambda: SimpleNamespace(get=lambda known: known, util=node))
    actor = feature_actor.FeatureActor(FeatureTask(None, PREPROCESSING, None, "run"), np.zeros(0, np.uint64))
    monkeypatch.setattr(actor, "_load", object)
    places = tuple(photo.path for photo in open_dataset(photos).photos[:3])

    def failure(named):
        for number in range(3):
            folder = tmp_path / "tmp" / f"vertebra-run-64-{int(dead.stdout)}-{number}"
            folder.mkdir(parents=True)
            if number < named:
                (folder / "decoding").write_text(f"{places[number]}")
        return actor({"number": 64, "chunk": PhotoChunk(places)})["failure"]

    assert failure(0).startswith(f"{places[0]} and 2 more: 3 processes have died of these photos")
    assert failure(1).startswith(f"{places[0]}: the process that decoded it has died")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_node_that_does_not_see_a_photo_is_named(photos, tmp_path):
    dataset = open_dataset(photos)
    cache, store = ImageInfoCache(tmp_path / "infos"), FeatureStore(tmp_path / "store", "here")
    fields = {"sha256": "", "width": 0, "height": 0, "broken": "unreadable", "reason": "is missing"}
    with pytest.raises(VertebraError, match=r"^node 10\.0\.0\.7 cannot read .*, which is missing there\. Put "):
        cluster_features._kept(dataset, 1, {"info": fields}, "10.0.0.7", cache, store)
    dataset.photos[1].path.unlink()  # nobody sees it
    assert cluster_features._kept(dataset, 1, {"info": fields}, "10.0.0.7", cache, store).reason == "is missing"


def test_an_actor_knows_what_the_driver_has(tmp_path):
    digests = [f"{number:02x}" * 32 for number in range(40)]
    store = FeatureStore(tmp_path, "here")
    for digest in digests[::2]:
        store.put(digest, np.ones(3, np.float32))
    computed = _Computed(store.first_words())
    assert [digest in computed for digest in digests] == [True, False] * 20
    computed.put(digests[1], np.ones(3, np.float32))
    assert digests[1] in computed and digests[3] not in computed
    assert "ff" * 32 not in computed and "00" * 32 in computed


def test_a_method_without_features_takes_no_cluster():
    with pytest.raises(UsageError, match="ray would do nothing: scratch starts from random weights"):
        Settings.from_mapping({"data": "x", "method": "scratch", "ray": "local"}, "here")
    assert Settings.from_mapping({"data": "x", "method": "finetune", "ray": "auto"}, "here").ray == "auto"
