"""Nodes that are busy, join, die or cannot take part, in runs of the command."""

import os
import subprocess
import sys
import tempfile

import bulk_runs
import numpy as np
import pytest
from bulk_runs import LocalTarget
from installed import needs
from ray_cluster import RayCluster, command_of

needs("ray")
pytestmark = pytest.mark.slow

PHOTOS = 24_000
HOLDER = """
import ray, sys
from vertebra.cluster.ray_connection import connected

with connected(sys.argv[1]):
    held = ray.remote(num_cpus=1)(type("Holder", (), {"ready": lambda self: True})).remote()
    ray.get(held.ready.remote())
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cluster():
    """A node of one CPU; tests add others."""
    with RayCluster(tempfile.mkdtemp(prefix="vr"), 1, environment={"RAY_health_check_period_ms": "500"}) as made:
        yield made


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos large enough that a chunk takes a part of a second."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "p"
    folder.mkdir()
    draw = np.random.default_rng(2)
    for number in range(PHOTOS):
        path = folder / f"{number:04}.jpg"
        if number < 40:
            small = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=85)
        else:
            path.hardlink_to(folder / f"{number % 40:04}.jpg")
    return folder


@pytest.fixture
def command(cluster, tiny_model):
    """The arguments of a run, without source and target."""
    return ["predict", "--model", tiny_model, "--engine", "onnxruntime", "--ray", cluster.address]


def lines(run):
    """Return what a run has said so far, its progress left out."""
    return [line for line in run.errors.splitlines() if not line.endswith((" so far", " left"))]


def actors(cluster, node):
    return [process for process in cluster.workers(node) if "MapWorker" in command_of(process)]


def assert_each_once(target, photos):
    found = target.rows()
    assert found.total() == len(found) == len(list(photos.iterdir()))
    assert '"error": "' not in "".join(found)


def test_cpus_that_another_job_holds_are_told(cluster, command, photos, tmp_path):
    target = LocalTarget(tmp_path / "all.jsonl")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, cluster.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "held" in holder.stdout.readline()
        run = bulk_runs.start([*command, photos], target)
        assert run.wait_until(lambda: "nothing is computed" in run.errors, 60), run.errors
        said = lines(run)
        assert len(said) == 1 and "0 of the cluster's 1 CPUs are free" in said[0] and "ray status" in said[0]
    finally:
        holder.communicate("")
    done = run.finish()
    assert done.code == 0 and lines(run) == said
    assert_each_once(target, photos)


def test_a_node_that_joins_takes_part_and_one_that_dies_is_replaced(cluster, command, photos, tmp_path):
    target = LocalTarget(tmp_path / "all.jsonl")
    first = next(iter(cluster.nodes))
    run = bulk_runs.start([*command, photos], target)
    assert run.wait_until(lambda: run.parts), run.errors
    second = cluster.add()
    assert run.wait_until(lambda: actors(cluster, second), 60), run.errors
    assert len(actors(cluster, first)) == len(actors(cluster, second)) == 1  # one for each CPU
    cluster.kill(first)
    done = run.finish()
    assert done.code == 0, done.errors
    assert [f"node {first} has died" in line for line in lines(run)] == [True]
    assert_each_once(target, photos)


def failed_at_once(command, photos, tmp_path):
    """Return the one line of a run that must end before a photo is predicted."""
    done = bulk_runs.start([*command, photos], LocalTarget(tmp_path / "all.jsonl")).finish()
    assert done.code == 1 and not done.parts and len(lines(done)) == 1, done.errors
    return lines(done)[0]


@pytest.fixture
def shim(tmp_path):
    """Variables of a node on which `import vertebra` runs this text."""

    def make(text):
        package = tmp_path / "shim" / "vertebra"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
        return {"PYTHONPATH": str(package.parent)}

    return make


def test_a_node_without_vertebra_is_named(cluster, command, photos, shim, tmp_path):
    name = cluster.add(shim("raise ModuleNotFoundError('No module named vertebra')"))
    said = failed_at_once(command, photos, tmp_path)
    assert f"node {name}: Vertebra is not installed there" in said and "pip install 'vertebra[ray]==" in said


def test_a_node_with_another_version_is_named(cluster, command, photos, shim, tmp_path):
    name = cluster.add(shim("__version__ = '0.0.1'"))
    said = failed_at_once(command, photos, tmp_path)
    assert f"node {name}: it has Vertebra 0.0.1" in said and "pip install 'vertebra[ray]==" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount")
@pytest.mark.parametrize("what", ["source", "target"])
def test_a_node_that_has_another_folder_there_is_named(cluster, command, photos, tmp_path, what):
    name = cluster.add(hide=photos if what == "source" else tmp_path)
    said = failed_at_once(command, photos, tmp_path)
    assert f"node {name}: " in said
    assert f"it does not see {photos}/" in said if what == "source" else f"{tmp_path}/all.jsonl is another" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount")
def test_a_node_that_lacks_one_of_several_folders_is_named(cluster, command, photos, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (few / "1.jpg").hardlink_to(photos / "0001.jpg")
    name = cluster.add(hide=few)
    assert f"node {name}: it does not see {few}/1.jpg" in failed_at_once([*command, few], photos, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount")
def test_a_node_that_joins_without_the_photos_ends_the_run(cluster, command, photos, tmp_path):
    target = LocalTarget(tmp_path / "all.jsonl")
    run = bulk_runs.start([*command, photos], target)
    assert run.wait_until(lambda: run.parts), run.errors
    name = cluster.add(hide=photos)
    done = run.finish()
    assert done.code == 1 and len(lines(done)) == 1
    assert f"node {name}: it does not see {photos}/" in lines(done)[0] and "--resume" in lines(done)[0]
    cluster.kill(name)
    again = bulk_runs.start([*command, photos, "--resume"], target).finish()
    assert again.code == 0, again.errors
    assert_each_once(target, photos)
