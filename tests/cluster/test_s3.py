"""Photos and results in S3, through the command: the same rows as on a disk, and what goes wrong is one line.

No credentials are in what is printed, written, put or logged.
"""

import json
import random
import signal
import tempfile
from urllib.parse import quote

import bulk_runs
import numpy as np
import pytest
from bulk_runs import LocalTarget, S3Target
from faulty_s3 import Cut, FaultyS3, Refuse, Stall
from installed import needs
from ray_cluster import RayCluster
from s3_server import KEY, SECRET, UNSET, environment

needs("ray")
pytestmark = pytest.mark.slow

PHOTOS = 1_300
SECRETS = (KEY, SECRET, quote(SECRET), quote(SECRET, safe=""))


@pytest.fixture(scope="module")
def cluster(s3_server):
    """Two nodes of one CPU which, as the command, know the server by their environment."""
    with RayCluster(tempfile.mkdtemp(prefix="vr"), environment=environment(s3_server)) as made:
        yield made


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos, one damaged, one with an odd name."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "p"
    folder.mkdir()
    draw = np.random.default_rng(1)
    for number in range(PHOTOS - 2):
        path = folder / f"{number:04}.jpg"
        if number < 20:
            small = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            small.resize((400, 300), Image.Resampling.BICUBIC).save(path)
        else:
            path.hardlink_to(folder / f"{number % 20:04}.jpg")
    (folder / "damaged.jpg").write_bytes((folder / "0000.jpg").read_bytes()[:500])
    (folder / "a b%20é +.jpg").hardlink_to(folder / "0001.jpg")
    return folder


def assert_no_secrets(*texts):
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        for secret in SECRETS:
            assert secret.encode() not in content


def one_line(done):
    """Return what a run has said, which must be one line, in the end."""
    assert_no_secrets(done.output, done.errors)
    lines = [line for line in done.errors.splitlines() if "so far" not in line and " left" not in line]
    assert len(lines) == 1 and lines[0].startswith("vertebra: "), done.errors
    return lines[0]


def by_name(rows):
    """Rows with the last part of their path alone."""
    found = {}
    for text in rows:
        row = json.loads(text)
        error = None if row["error"] is None else "damaged"
        found[row["path"].rpartition("/")[2]] = row | {"path": None, "error": error}
    return found


def test_from_s3_to_s3_the_rows_are_those_of_a_disk(cluster, s3, photos, tiny_model, tmp_path):
    options = ["--model", tiny_model, "--engine", "onnxruntime", "--ray", cluster.address]
    local, remote = LocalTarget(tmp_path / "all.jsonl"), S3Target(s3, "results/all.jsonl")
    on_disk = bulk_runs.start(["predict", photos, *options], local).finish()
    in_s3 = bulk_runs.start(["predict", s3.upload(photos, "photos"), *options], remote).finish()
    assert on_disk.code == in_s3.code == 1
    assert f"1 of {PHOTOS:,} photos" in one_line(in_s3)
    found = by_name(remote.rows())
    assert found == by_name(local.rows()) and len(found) == PHOTOS
    assert found["damaged.jpg"]["error"] == "damaged" and "s3://" in str(remote.rows())
    assert remote.unfinished() == []
    assert_no_secrets(*(s3.get(key) for key in s3.keys("results/")))
    assert_no_secrets(*(path.read_bytes() for path in cluster.logs()))


@pytest.mark.parametrize("whole", [False, True], ids=["driver", "driver-and-workers"])
def test_a_driver_that_dies_is_resumed(cluster, s3, photos, tiny_model, tmp_path, whole):
    command = ["predict", photos, "--model", tiny_model, "--engine", "onnxruntime", "--ray", cluster.address]
    local, remote = LocalTarget(tmp_path / "all.parquet"), S3Target(s3, "all.parquet")
    bulk_runs.start(command, local).finish()
    run = bulk_runs.start(command, remote)
    after = random.randint(1, 3)
    assert run.wait_until(lambda: len(run.parts) >= after), run.errors
    run.kill_driver(whole)
    if whole:
        bulk_runs.kill_all([worker for node in cluster.nodes for worker in cluster.workers(node)])
    assert run.finish().code == -signal.SIGKILL
    resumed = bulk_runs.start([*command, "--resume"], remote).finish()
    assert f"1 of {PHOTOS:,} photos" in one_line(resumed)
    assert not bulk_runs.compare_rows(local.rows(), remote.rows())
    assert remote.unfinished() == []


@pytest.fixture
def quick(tiny_model):
    """The options of a run with a cluster of its own, which has the environment of the test."""
    return ["--model", tiny_model, "--engine", "onnxruntime", "--ray"]


def run(source, options, target):
    return bulk_runs.Run(["predict", source, *options, "--out", str(target)], list).finish()


def test_a_bucket_that_is_not_there(s3, quick, tmp_path, photos):
    done = run("s3://no-such-bucket/photos", quick, tmp_path / "all.csv")
    assert done.code == 1 and "s3://no-such-bucket" in one_line(done) and "no such bucket" in done.errors
    done = run(photos, quick, "s3://no-such-bucket/all.csv")
    assert done.code == 1 and "s3://no-such-bucket" in one_line(done) and "no such bucket" in done.errors


def test_a_prefix_that_is_not_there(s3, quick, tmp_path):
    s3.put("photos/1.jpg", b"")
    done = run(f"{s3.uri}/phots", quick, tmp_path / "all.csv")
    assert done.code in (1, 2) and f"{s3.uri}/phots" in one_line(done)
    assert not (tmp_path / "all.csv").exists()


def test_credentials_in_an_address_are_refused(s3, quick, tmp_path, photos):
    for source, target in ((f"s3://{KEY}:{SECRET}@bucket/photos", tmp_path / "all.csv"),
                           (photos, f"s3://{KEY}:{SECRET}@bucket/all.csv")):  # fmt: skip
        done = run(source, quick, target)
        assert done.code == 2 and "credentials" in one_line(done)


@pytest.fixture
def faulty(monkeypatch, photos):
    """A server with forty photos in `s3://bucket/photos`, to which faults can be added."""
    with FaultyS3() as server:
        for name in UNSET:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VERTEBRA_REMOTE_SECONDS", "3")
        for path in sorted(photos.glob("00[0-3]?.jpg")):
            server.objects[f"bucket/photos/{path.name}"] = path.read_bytes()
        yield server


def test_access_that_is_denied(faulty, quick, tmp_path):
    faulty.faults.append(Refuse())
    done = run("s3://bucket/photos", quick, tmp_path / "all.csv")
    said = one_line(done)
    assert done.code == 1 and "s3://bucket/photos" in said and "403" in said and "AWS_ACCESS_KEY_ID" in said


def test_a_target_that_may_not_be_written(faulty, quick, photos):
    faulty.faults.append(Refuse("PUT"))
    done = run("s3://bucket/photos", quick, "s3://bucket/all.csv")
    said = one_line(done)
    assert done.code == 1 and "s3://bucket/all.csv" in said and "403" in said


def test_photos_that_may_not_be_read(faulty, quick, tmp_path):
    """They are listed; each has a row that says why."""
    faulty.faults.append(Refuse(of=".jpg"))
    target = LocalTarget(tmp_path / "all.jsonl")
    done = run("s3://bucket/photos", quick, target)
    said = one_line(done)
    assert done.code == 1 and "403" in said + "".join(target.rows())
    assert_no_secrets(*target.rows())


def test_a_connection_that_is_cut_costs_nothing(faulty, quick, tmp_path):
    faulty.faults.append(Cut("GET", times=3, of=".jpg"))
    target = LocalTarget(tmp_path / "all.jsonl")
    done = run("s3://bucket/photos", quick, target)
    assert done.code == 0, done.errors
    assert target.rows().total() == 40 and faulty.faults[0].times == 0


@pytest.mark.parametrize("fault", [Cut("GET", of="0007.jpg"), Stall("GET", of="0007.jpg")], ids=["cut", "no-answer"])
def test_a_photo_that_does_not_come_is_named(faulty, quick, tmp_path, fault):
    faulty.faults.append(fault)
    target = LocalTarget(tmp_path / "all.jsonl")
    done = run("s3://bucket/photos", quick, target)
    said = one_line(done)
    assert done.code == 1
    failed = [row for row in map(json.loads, target.rows()) if row["error"]]
    if failed:  # a row of its own
        assert "1 of 40 photos" in said
        said = failed[0]["error"]
    assert "s3://bucket/photos/0007.jpg" in said
    assert_no_secrets(*target.rows())
    faulty.faults.clear()
    again = bulk_runs.start(["predict", "s3://bucket/photos", *quick, "--resume"], target).finish()
    assert again.code == 0, again.errors
    assert target.rows().total() == 40 and not any(json.loads(row)["error"] for row in target.rows())


def test_a_service_that_does_not_answer(faulty, quick, tmp_path):
    faulty.faults.append(Stall())
    done = run("s3://bucket/photos", quick, tmp_path / "all.jsonl")
    assert done.code == 1 and "s3://bucket/photos" in one_line(done)
    assert done.seconds < 60
