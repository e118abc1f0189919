"""Nodes and drivers are killed while they work: after `--resume` no row is lost, none doubled, none another.

bench/ray.py runs the same trials more often, over more photos.
"""

import contextlib
import os
import random
import signal
import subprocess
import tempfile

import bulk_runs
import numpy as np
import pytest
from bulk_runs import LocalTarget
from installed import needs
from ray_cluster import RayCluster

needs("ray")
pytestmark = pytest.mark.slow

PHOTOS = 1_700  # eight parts of 64, three of 256 or less, eight of 64
ODD_NAMES = ("a b.jpg", "new\nline.jpg", "a::b.jpg", "100%.jpg", "=1+1.jpg", "ключ.jpg", b"latin-\xe9.jpg")
HEALTH_CHECK_MS = 500  # five that fail make a node a dead one; Ray's default is 3,000


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU; tests that kill one are followed by another."""
    folder = tempfile.mkdtemp(prefix="vr")  # sockets have short paths
    with RayCluster(folder, environment={"RAY_health_check_period_ms": str(HEALTH_CHECK_MS)}) as made:
        yield made


@pytest.fixture
def nodes(cluster):
    """The names of two nodes that run."""
    while len(cluster.nodes) < 2:
        cluster.add()
    return list(cluster.nodes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos large enough that a chunk takes a second or so, some broken, some with odd names."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "p"
    folder.mkdir()
    draw = np.random.default_rng(0)
    originals = []
    for number in range(40):
        small = draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        path = folder / f"{number:04}.jpg"
        Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=85)
        originals.append(path)
    for number, name in enumerate(ODD_NAMES):
        os.link(originals[number], os.path.join(os.fsencode(folder), os.fsencode(name)))  # noqa: PTH118 - bytes
    for number, content in enumerate((b"", b"no photo", originals[0].read_bytes()[:900])):
        (folder / f"broken-{number}.jpg").write_bytes(content)
    for number in range(len(list(folder.iterdir())), PHOTOS):
        (folder / f"{number:04}.jpg").hardlink_to(originals[number % len(originals)])
    return folder


@pytest.fixture(scope="module")
def command(cluster, photos, tiny_model):
    """The arguments of a run, without its target."""

    return ["predict", photos, "--model", tiny_model, "--engine", "onnxruntime", "--ray", cluster.address]


@pytest.fixture(scope="module")
def undisturbed(command, photos, tmp_path_factory):
    """Return the rows of a run that nothing happens to, in a format."""
    known = {}

    def rows(suffix):
        if suffix not in known:
            target = LocalTarget(tmp_path_factory.mktemp("undisturbed") / f"all.{suffix}")
            done = bulk_runs.start(command, target).finish()
            assert done.code == 1 and "3 of 1,700 photos could not be classified" in done.errors
            known[suffix] = target.rows()
            assert known[suffix].total() == PHOTOS and max(known[suffix].values()) == 1
        return known[suffix]

    return rows


def assert_same(target, expected):
    wrong = bulk_runs.compare_rows(expected, target.rows())
    assert not wrong, f"{len(wrong.lost)} lost: {wrong.lost[:3]}; {len(wrong.extra)} more: {wrong.extra[:3]}"
    assert target.unfinished() == []


def plain_lines(done):
    """Return the lines of a run on standard error, those of its progress left out."""
    lines = [line for line in done.errors.splitlines() if not line.endswith((" so far", " left"))]
    assert all(line.startswith("vertebra: ") for line in lines), done.errors
    return lines


def assert_one_line(done):
    assert len(plain_lines(done)) == 1, done.errors


@pytest.mark.parametrize("suffix", bulk_runs.FORMATS)
def test_a_node_that_dies_costs_no_row(cluster, nodes, command, undisturbed, tmp_path, suffix):
    expected = undisturbed(suffix)
    target = LocalTarget(tmp_path / f"all.{suffix}")
    run = bulk_runs.start(command, target)
    after = random.randint(1, 4)
    assert run.wait_until(lambda: len(run.parts) >= after), run.errors
    if suffix == "csv":  # while a part is written
        run.wait_until(target.is_writing, 5, every=0.001)
    victim = random.choice(nodes)
    cluster.kill(victim)
    done = run.finish()
    assert done.code == 1 and "3 of 1,700 photos could not be classified" in done.errors
    # What Ray says of a dead node is one line.
    assert "Traceback" not in done.errors and "(raylet)" not in done.errors + done.output, done.errors
    died, failed = plain_lines(done)
    assert "has died" in died and "3 of 1,700" in failed
    assert_same(target, expected)


@pytest.mark.parametrize("whole", [False, True], ids=["driver", "driver-and-workers"])
@pytest.mark.parametrize("suffix", bulk_runs.FORMATS)
def test_a_driver_that_dies_is_resumed(cluster, nodes, command, undisturbed, tmp_path, suffix, whole):
    expected = undisturbed(suffix)
    target = LocalTarget(tmp_path / f"all.{suffix}")
    run = bulk_runs.start(command, target)
    after = random.randint(0, 4)
    assert run.wait_until(lambda: len(run.parts) >= after and target.path.is_dir()), run.errors
    if after % 2:
        run.wait_until(target.is_writing, 5, every=0.001)
    run.kill_driver(whole)
    if whole:
        bulk_runs.kill_all([worker for node in nodes for worker in cluster.workers(node)])
    assert run.finish().code == -signal.SIGKILL
    # At once: workers of the run before may still write.
    resumed = bulk_runs.start([*command, "--resume"], target).finish()
    assert "3 of 1,700 photos could not be classified" in resumed.errors
    assert_same(target, expected)


def test_a_run_is_not_begun_over_another(command, undisturbed, tmp_path):
    target = LocalTarget(tmp_path / "all.csv")
    expected = undisturbed("csv")
    run = bulk_runs.start(command, target)
    assert run.wait_until(lambda: run.parts)
    run.kill_driver()
    run.finish()
    again = bulk_runs.start(command, target).finish()
    assert again.code == 2 and "--resume" in again.errors
    assert_one_line(again)
    bulk_runs.start([*command, "--resume"], target).finish()
    assert_same(target, expected)


def test_a_node_that_was_taken_for_dead_comes_back(cluster, nodes, command, undisturbed, tmp_path):
    """Its processes go on after their chunks were given to others, and write parts that are whole already."""
    expected = undisturbed("jsonl")
    target = LocalTarget(tmp_path / "all.jsonl")
    run = bulk_runs.start(command, target)
    assert run.wait_until(lambda: run.parts), run.errors
    victim = random.choice(nodes)
    paused = cluster.pause(victim)
    try:
        assert run.wait_until(lambda: victim not in cluster.alive(), every=0.2), run.errors
    finally:
        for process in paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
    run.finish()
    cluster.kill(victim)
    assert_same(target, expected)


def test_ctrl_c_ends_clean(cluster, nodes, command, undisturbed, tmp_path):
    expected = undisturbed("parquet")
    target = LocalTarget(tmp_path / "all.parquet")
    run = bulk_runs.start(command, target)
    assert run.wait_until(lambda: len(run.parts) >= 2), run.errors
    run.process.send_signal(signal.SIGINT)
    stopped = run.finish(60)
    assert stopped.code == 130 and "--resume" in stopped.errors and "Traceback" not in stopped.errors
    assert_one_line(stopped)
    bulk_runs.start([*command, "--resume"], target).finish()
    assert_same(target, expected)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of some hundred kilobytes: `small_disk("size=400k")`."""
    mounted = []

    def mount(options):
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"root may mount a file system: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_full_disk_is_told_and_the_run_is_resumed_with_room(
    nodes, command, undisturbed, small_disk, tmp_path, suffix
):
    expected = undisturbed(suffix)
    disk = small_disk("size=1m")
    target = LocalTarget(disk / f"all.{suffix}")
    (disk / "other").write_bytes(b"x" * 900_000)
    full = bulk_runs.start(command, target).finish()
    assert full.code == 1 and "full" in full.errors and str(disk) in full.errors and "Traceback" not in full.errors
    assert_one_line(full)
    (disk / "other").unlink()
    bulk_runs.start([*command, "--resume"], target).finish()
    assert_same(target, expected)


def test_a_target_that_is_read_only(nodes, command, small_disk):
    disk = small_disk("ro,size=400k")
    target = LocalTarget(disk / "all.csv")
    done = bulk_runs.start(command, target).finish()
    assert done.code == 1 and str(disk) in done.errors
    assert_one_line(done)


def test_what_was_cut_or_lost_in_between_is_made_again(command, undisturbed, tmp_path):
    expected = undisturbed("parquet")
    target = LocalTarget(tmp_path / "all.parquet")
    run = bulk_runs.start(command, target)
    run.finish()
    parts = sorted(target.path.glob("part-*"))
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    manifest = sorted((target.path / "_vertebra").glob("done-*"))[-1]
    manifest.write_bytes(manifest.read_bytes()[:-30])  # its last record
    resumed = bulk_runs.start([*command, "--resume"], target).finish()
    assert resumed.code == 1
    assert_same(target, expected)
