"""`vertebra predict --ray` on a cluster of two nodes of one CPU, beside the same command on the same two cores.

The nodes are raylets on this machine, on loopback (tests/ray_cluster.py), and the command is a process that connects
to them, observed from outside (tests/bulk_runs.py): a part counts from when its file has its name. The photos are
Caltech-101's under as many names as are asked for, or those of the folder that VERTEBRA_BENCH_PHOTOS names.

- steady: photos/s of the cluster from 20 to 95 % of a run, by a straight line through (seconds, rows that are there)
  at the moments when parts were finished, so without start-up and without the end, when an actor has nothing left to
  do; beside those of `predict_many` with the network loaded, as bench/folder.py times it. Runs alternate.
- whole: seconds of the process, start-up and end included.
- first: seconds from the start of the process to the first part, on a running cluster and with one of its own.
- kills: nodes and drivers are killed by SIGKILL of all their processes, at random moments and while a part is
  written. After it, and a plain `--resume` where the driver died, the rows are compared with an undisturbed run's.
  A stall is the longest time from one part to the next after a node was killed. Every fifth target is in S3.
- s3: photos read by the actors from moto on this machine, which takes a core itself: a lower bound.
- costs: what the time of 100 million photos is worked out from.

`python bench/ray.py --only kills first` measures these alone and keeps the others of the JSON; `--quick` shows in a
few minutes that all of it works, and writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _common
import folder as folder_bench
from memory import resident_mb

sys.path.insert(1, str(_common.ROOT / "tests"))
import bulk_runs
import s3_server
from bulk_runs import FORMATS, LocalTarget, S3Target, Target
from ray_cluster import RayCluster, command_of

from vertebra.cluster.part_plan import CHUNK_PHOTOS, MOST

NAME = "ray"
NETWORK = "efficientnet_lite0"
PACKAGES = ("ray", "pyarrow", "onnxruntime", "MNN", "pillow", "moto")
SECTIONS = ("steady", "whole", "first", "kills", "s3", "costs")
# Of Ray's head: five that fail make a node a dead one. With Ray's default of 3,000 a dead node is noticed after 15 s.
HEALTH_CHECK_MS = 1_000
REQUIRED = {"steady": 0.92, "whole": 0.85, "first": 10.0, "stall": 15.0}
WINDOW = (0.20, 0.95)
PHOTOS, NODES = 100_000_000, 100  # of the estimate
KILLS_A_RUN = 3  # of the driver, each after some parts, before a run is let go on to its end


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    steady: int = 5_120  # photos
    pairs: int = 5
    whole: int = 20_000
    first: int = 3  # runs
    kills: int = 1_792
    nodes: int = 10
    drivers: int = 20
    s3: int = 1_024


QUICK = Sizes(steady=768, pairs=1, whole=768, first=1, kills=768, nodes=1, drivers=2, s3=128)


@dataclass
class Bench:
    """What the measurements share."""

    folder: Path  # scratch
    sizes: Sizes
    model: Path
    cluster: RayCluster
    bucket: s3_server.Bucket
    _photos: dict[int, Path] = field(default_factory=dict)

    def photos(self, count: int) -> Path:
        """Return a folder of so many photos, a thousand in each of its folders."""
        if count not in self._photos:
            self._photos[count] = link_photos(self.folder / f"photos-{count}", count)
        return self._photos[count]

    def command(self, source: object, *more: str) -> list[str]:
        return ["predict", str(source), "--model", str(self.model), *more]

    def ray_command(self, source: object, *more: str) -> list[str]:
        return self.command(source, "--ray", self.cluster.address, *more)

    def fresh(self, suffix: str = "jsonl") -> LocalTarget:
        return LocalTarget(Path(tempfile.mkdtemp(dir=self.folder)) / f"all.{suffix}")


def link_photos(folder: Path, count: int) -> Path:
    originals = Path(os.environ.get("VERTEBRA_BENCH_PHOTOS", folder_bench.DATA / "caltech101"))
    found = sorted(originals.rglob("*.jp*g"))
    if not found:
        sys.exit(f"{originals} has no JPEGs; set VERTEBRA_BENCH_PHOTOS to a folder of photos.")
    random.Random(0).shuffle(found)
    for number in range(count):
        inside = folder / f"{number // 1000:03}"
        inside.mkdir(parents=True, exist_ok=True)
        original, link = found[number % len(found)], inside / f"{number:06}.jpg"
        try:
            link.hardlink_to(original)
        except OSError:  # another file system
            link.symlink_to(original)
    return folder


# --- a run's rate -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A finished run on the cluster."""

    seconds: float  # of the process
    steady: float  # photos/s
    first: float  # seconds to the first part


def slope(points: Sequence[tuple[float, int]], count: int) -> float:
    """Rows a second between the shares of WINDOW, of (seconds, rows that are there)."""
    inside = [(moment, rows) for moment, rows in points if WINDOW[0] * count <= rows <= WINDOW[1] * count]
    moments, rows = zip(*inside, strict=True)
    return float(statistics.linear_regression(moments, rows).slope)


def plain_rate(bench: Bench, count: int) -> float:
    """Photos/s of `predict_many` in a process of its own, with the network loaded, measured and awake."""
    command = [sys.executable, __file__, "--plain", str(bench.photos(count)), str(bench.model)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return count / float(done.stdout.splitlines()[-1])


def plain_seconds_of_all(folder: str, model: str) -> float:
    """What that process measures."""
    paths = sorted(map(str, Path(folder).rglob("*.jpg")))
    return float(folder_bench.with_vertebra(paths, model)["seconds"])


def plain_run(bench: Bench, count: int) -> float:
    """Seconds of the command without a cluster, start and end included."""
    out = bench.fresh().path
    command = [sys.executable, "-m", "vertebra", *bench.command(bench.photos(count)), "--out", str(out)]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def ray_run(bench: Bench, count: int) -> Measured:
    """The command on the cluster."""
    target = bench.fresh()
    done = bulk_runs.start(bench.ray_command(bench.photos(count)), target).finish(900)
    require_success(done)
    return Measured(done.seconds, slope(part_points(target, done), count), min(done.parts.values()))


def part_points(target: LocalTarget, done: bulk_runs.Finished) -> list[tuple[float, int]]:
    """Return (seconds, rows that are there) at the moments when parts were finished."""
    points, total = [], 0
    for name, moment in sorted(done.parts.items(), key=lambda item: item[1]):
        total += (target.path / name).read_bytes().count(b"\n")
        points.append((moment, total))
    return points


def require_success(done: bulk_runs.Finished) -> None:
    if done.code:
        sys.exit(f"the run has failed ({done.code}):\n{done.errors}")


# --- measurements -----------------------------------------------------------------------------------------------------


def measure_steady(bench: Bench) -> dict[str, Any]:
    count = bench.sizes.steady
    plain_run(bench, count)  # the plans are measured, the photos in the page cache
    ray_run(bench, count)
    plain: list[float] = []
    ray: list[Measured] = []
    for turn in range(bench.sizes.pairs):
        if turn % 2:
            ray.append(ray_run(bench, count))
        plain.append(plain_rate(bench, count))
        if not turn % 2:
            ray.append(ray_run(bench, count))
    ratios = [of_ray.steady / of_plain for of_plain, of_ray in zip(plain, ray, strict=True)]
    return {
        "photos": count,
        "ratio": _common.summary(ratios, digits=3),
        "plain_images_per_second": _common.summary(plain, digits=1),
        "ray_images_per_second": _common.summary([run.steady for run in ray], digits=1),
        "ray_seconds": _common.summary([run.seconds for run in ray]),
        "first_part_seconds": _common.summary([run.first for run in ray]),
    }


class MemorySampler:
    """Samples the resident memory of a run's driver and of its actors while these are there, MB."""

    def __init__(self, cluster: RayCluster, driver: int) -> None:
        self.driver: list[float] = []
        self.actors: list[float] = []  # the largest at that moment
        self._cluster, self._process = cluster, driver
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            with contextlib.suppress(OSError, KeyError, ValueError):
                workers = [process for node in self._cluster.nodes for process in self._cluster.workers(node)]
                actors = [worker for worker in workers if "PredictionActor" in command_of(worker)]
                if largest := [resident_mb(actor)["VmRSS"] for actor in actors]:  # from when they are there
                    self.driver.append(resident_mb(self._process)["VmRSS"])
                    self.actors.append(max(largest))

    def close(self) -> dict[str, Any]:
        self._ended.set()
        self._thread.join()
        return {"driver": of_samples(self.driver), "actor": of_samples(self.actors)}


def of_samples(samples: Sequence[float]) -> dict[str, int]:
    """The median about 25 % of the run and at its end, and the peak, MB."""
    if not samples:
        return {}
    width = max(1, len(samples) // 20)
    early = samples[len(samples) // 4 :][:width]
    late = samples[-width:]
    return {
        "at_25_percent_mb": round(statistics.median(early)),
        "at_the_end_mb": round(statistics.median(late)),
        "peak_mb": round(max(samples)),
    }


def measure_whole(bench: Bench) -> dict[str, Any]:
    count = bench.sizes.whole
    plain = plain_run(bench, count)
    target = bench.fresh()
    run = bulk_runs.start(bench.ray_command(bench.photos(count)), target)
    sampler = MemorySampler(bench.cluster, run.process.pid)
    done = run.finish(1_200)
    memory = sampler.close()
    require_success(done)
    size = sum((target.path / name).stat().st_size for name in target.parts())
    return {
        "photos": count,
        "plain_seconds": round(plain, 1),
        "ray_seconds": round(done.seconds, 1),
        "ratio": round(plain / done.seconds, 3),
        "memory": memory,
        "result_bytes_per_photo": round(size / count),
    }


def measure_first(bench: Bench) -> dict[str, Any]:
    """Each run is stopped by Ctrl-C when it has a part; how long it takes to end is measured, too."""
    photos, found = bench.photos(bench.sizes.steady), {}
    for kind, command in {"running": bench.ray_command(photos), "own": [*bench.command(photos), "--ray"]}.items():
        first, stop = [], []
        for _ in range(bench.sizes.first):
            run = bulk_runs.start(command, bench.fresh())
            if not run.wait_until(lambda run=run: run.parts, 180):
                sys.exit(f"no part after 180 s; it said:\n{run.errors}")
            asked = time.monotonic()
            run.process.send_signal(signal.SIGINT)
            run.finish(60)
            stop.append(time.monotonic() - asked)
            first.append(min(run.parts.values()))
        found[kind] = {"first_part_seconds": _common.summary(first), "ctrl_c_seconds": _common.summary(stop)}
    return found


def measure_s3(bench: Bench) -> dict[str, Any]:
    count = bench.sizes.s3
    photos = bench.photos(count)
    address = bench.bucket.upload(photos, "photos")
    size = sum(path.stat().st_size for path in photos.rglob("*.jpg"))
    seconds = {}
    for kind, source in {"local": photos, "s3": address}.items():
        done = bulk_runs.start(bench.ray_command(source), bench.fresh()).finish(600)
        require_success(done)
        seconds[kind] = done.seconds
    return {
        "photos": count,
        "megabytes": round(size / 1e6, 1),
        "local_seconds": round(seconds["local"], 1),
        "s3_seconds": round(seconds["s3"], 1),
        "s3_images_per_second": round(count / seconds["s3"], 1),
    }


def measure_costs(bench: Bench) -> dict[str, Any]:
    """What a photo costs a core, and the rest that grows with the photos, for 10⁶ of them."""
    from vertebra.sources import open_source
    from vertebra.storage import Location

    photos = bench.photos(bench.sizes.steady)
    paths = sorted(map(str, photos.rglob("*.jpg")))[:512]
    cores = folder_bench.in_a_process("cores", paths, str(bench.model))
    open_source(str(photos))  # what it imports is
    start = time.perf_counter()
    source = open_source(str(photos))
    chunks = [source.chunk(number) for number in range(len(source))]
    listing = time.perf_counter() - start
    start = time.perf_counter()
    read = sum(len(record.content or b"") for chunk in chunks for record in chunk.read())
    reading = time.perf_counter() - start
    content, seconds = os.urandom(200_000), []
    place = Location(str(bench.folder / "written"))
    for number in range(30):
        start = time.perf_counter()
        (place / f"part-{number:06}.parquet").write(content)
        seconds.append(time.perf_counter() - start)
    return {
        "decode_ms": round(1e3 * cores["decode"], 2),
        "model_ms": round(1e3 * cores["model"], 2),
        "model_mb": round(bench.model.stat().st_size / 1e6, 1),
        "bytes_of_a_photo": round(read / bench.sizes.steady),
        "listing_seconds_per_million": round(1e6 * listing / bench.sizes.steady, 1),
        "reading_ms": round(1e3 * reading / bench.sizes.steady, 3),
        "write_part_ms": _common.summary(seconds, 1e3, 1),
    }


# --- kills ------------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the trials have come to."""

    trials: int = 0
    lost: int = 0  # rows
    extra: int = 0  # rows that are there twice, or are others
    left: int = 0  # files of writers that were killed
    while_writing: int = 0  # kills at a moment when a part was being written
    stalls: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # of runs that did not end well

    def check(self, expected: Counter[str], target: Target, done: bulk_runs.Finished) -> None:
        """Compare a target with an undisturbed one."""
        if done.code:
            self.complaints.append(done.errors[-500:])
        wrong = bulk_runs.compare_rows(expected, target.rows())
        self.lost += len(wrong.lost)
        self.extra += len(wrong.extra)
        self.left += len(target.unfinished())

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "trials": self.trials,
            "rows_lost": self.lost,
            "rows_doubled_or_others": self.extra,
            "files_left": self.left,
            "while_writing": self.while_writing,
            "complaints": self.complaints,
        }
        return found | ({"stall_seconds": _common.summary(self.stalls)} if self.stalls else {})


def kill_target(bench: Bench, number: int) -> Target:
    """Return where a trial writes: each format in turn, every fifth in S3."""
    suffix = FORMATS[number % len(FORMATS)]
    return S3Target(bench.bucket, f"trial-{number}/all.{suffix}") if number % 5 == 4 else bench.fresh(suffix)


def suffix_of(target: Target) -> str:
    return str(target).rpartition(".")[2]


def wait_for_moment(run: bulk_runs.Run, target: Target, after: int, aim: bool) -> bool:
    """Wait for so many parts, then for the writing of another or a random time; return whether one is written now."""
    have = len(run.parts)
    run.wait_until(lambda: len(run.parts) >= have + after)
    if aim:
        return run.wait_until(target.is_writing, 10, every=0.0005)
    time.sleep(random.uniform(0, 2))
    return target.is_writing()


def measure_kills(bench: Bench) -> dict[str, Any]:
    count = bench.sizes.kills
    photos = bench.photos(count)
    expected = {}
    for suffix in FORMATS:
        target = bench.fresh(suffix)
        require_success(bulk_runs.start(bench.ray_command(photos), target).finish())
        expected[suffix] = target.rows()
        if expected[suffix].total() != count or max(expected[suffix].values()) != 1:
            sys.exit(f"an undisturbed run has {expected[suffix].total()} rows of {count} photos")
    nodes, drivers = Tally(), Tally()
    for number in range(bench.sizes.nodes):
        target = kill_target(bench, number)
        run = bulk_runs.start(bench.ray_command(photos), target)
        nodes.while_writing += wait_for_moment(run, target, random.randint(0, 3), number % 2 == 0)
        bench.cluster.kill(random.choice(list(bench.cluster.nodes)))
        since = time.monotonic() - run.start
        done = run.finish()
        nodes.trials += 1
        nodes.stalls.append(bulk_runs.longest_gap(list(done.parts.values()), since))
        nodes.check(expected[suffix_of(target)], target, done)
        bench.cluster.add()
        print(f"node {number + 1}: stall {nodes.stalls[-1]:.1f} s, lost {nodes.lost}, extra {nodes.extra}", flush=True)
    number = 0
    while drivers.trials < bench.sizes.drivers:
        target = kill_target(bench, number)
        number += 1
        command = bench.ray_command(photos)
        for again in range(min(KILLS_A_RUN, bench.sizes.drivers - drivers.trials)):
            run = bulk_runs.start([*command, *["--resume"] * bool(again)], target)
            # One that has nothing to do ends by itself.
            drivers.while_writing += wait_for_moment(run, target, random.randint(0, 1), drivers.trials % 2 == 0)
            whole = drivers.trials % 3 == 2
            run.kill_driver(whole)
            if whole:
                workers = [worker for node in bench.cluster.nodes for worker in bench.cluster.workers(node)]
                bulk_runs.kill_all(workers)
            if run.finish().code == -signal.SIGKILL:
                drivers.trials += 1
        done = bulk_runs.start([*command, "--resume"], target).finish()
        drivers.check(expected[suffix_of(target)], target, done)
        print(f"driver {drivers.trials}: lost {drivers.lost}, extra {drivers.extra}", flush=True)
    return {
        "photos": count,
        "health_check_period_ms": HEALTH_CHECK_MS,
        "node": nodes.as_dict(),
        "driver": drivers.as_dict(),
    }


# --- all of it --------------------------------------------------------------------------------------------------------


MEASUREMENTS = {
    "steady": measure_steady,
    "whole": measure_whole,
    "first": measure_first,
    "kills": measure_kills,
    "s3": measure_s3,
    "costs": measure_costs,
}


@contextlib.contextmanager
def prepared(sizes: Sizes, network: str) -> Iterator[Bench]:
    """The cluster, S3 and the model."""
    scratch = Path(tempfile.mkdtemp(prefix="vertebra-bench-"))
    short = tempfile.mkdtemp(prefix="vr")  # sockets have short paths
    os.environ.pop("OMP_NUM_THREADS", None)
    for name in s3_server.UNSET:
        os.environ.pop(name, None)
    try:
        model = scratch / "model.onnx"
        if network.endswith(".onnx"):
            shutil.copyfile(network, model)
        else:
            export = [sys.executable, "-m", "vertebra", "export", network, "--out", str(model)]
            subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        with s3_server.s3_server() as endpoint:
            os.environ.update(s3_server.environment(endpoint))  # of the nodes, and of the commands
            check = {"RAY_health_check_period_ms": str(HEALTH_CHECK_MS)}
            with RayCluster(short, environment=check) as cluster:
                yield Bench(scratch, sizes, model, cluster, s3_server.make_bucket(endpoint))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def render(document: dict[str, Any]) -> str:
    rows = []
    if "steady" in document:
        found = document["steady"]
        ratio, plain, ray = (found[key] for key in ("ratio", "plain_images_per_second", "ray_images_per_second"))
        label = f"steady rate, {found['photos']:,} photos: {ray['median']:.1f} of {plain['median']:.1f} images/s"
        rows.append([label, f"**{ratio['median']:.3f}** ({ratio['min']:.3f}–{ratio['max']:.3f})", "≥ 0.92"])
    if "whole" in document:
        found = document["whole"]
        label = f"whole run, {found['photos']:,} photos: {found['plain_seconds']:.0f} of {found['ray_seconds']:.0f} s"
        rows.append([label, f"**{found['ratio']:.3f}**", "≥ 0.85"])
        for kind, memory in found["memory"].items():
            label = f"memory of {'the driver' if kind == 'driver' else 'an actor'}, MB: after 25 %, at the end, peak"
            rows.append([label, " · ".join(f"{memory[key]:,}" for key in memory), "flat"])
    for kind, label in {"running": "on a running cluster", "own": "with a cluster of its own"}.items():
        if "first" in document:
            first = document["first"][kind]["first_part_seconds"]
            rows.append([f"first rows {label}, s", f"{first['median']:.1f} ({first['min']:.1f}–{first['max']:.1f})",
                         "≤ 10"])  # fmt: skip
    for kind in ("node", "driver"):
        if "kills" in document:
            found = document["kills"][kind]
            label = f"{found['trials']} kills of a {kind}, {found['while_writing']} while a part was written"
            rows.append([label, f"{found['rows_lost']} rows lost, {found['rows_doubled_or_others']} doubled", "0, 0"])
    if "kills" in document:
        stall = document["kills"]["node"]["stall_seconds"]
        rows.append(["longest stall after a node was killed, s", f"{stall['median']:.1f}, at most {stall['max']:.1f}",
                     "≤ 15"])  # fmt: skip
    if "s3" in document:
        found = document["s3"]
        label = f"whole run of {found['photos']:,} photos from S3 (moto), s; from the disk"
        rows.append([label, f"{found['s3_seconds']:.1f}; {found['local_seconds']:.1f}", ""])
    head = ["two nodes of one CPU, EfficientNet-Lite0", "measured", "required"]
    text = f"{_common.table(head, rows)}\n\nMedian (least–most). {_common.footnote(document)}"
    return f"{text}\n\n{render_estimate(document)}" if {"steady", "first", "costs"} <= document.keys() else text


def render_estimate(document: dict[str, Any]) -> str:
    """What 100 million photos on 100 nodes of two cores take, from what was measured on one such node."""
    costs, rate = document["costs"], document["steady"]["ray_images_per_second"]["median"]
    first = document["first"]["running"]["first_part_seconds"]["median"]
    megabytes = costs["bytes_of_a_photo"] / 1e6
    listing, predicting = costs["listing_seconds_per_million"] * PHOTOS / 1e6, PHOTOS / (NODES * rate)
    parts = PHOTOS // (MOST * CHUNK_PHOTOS)
    writing = parts * costs["write_part_ms"]["median"] / 1e3 / (2 * NODES)
    rows = [
        ["listing a folder, before the first photo", "one process; names, sizes and times of local files",
         f"{listing / 60:.0f} min"],
        ["start-up", f"actors, {costs['model_mb']:.0f} MB of network to each node, the first part", f"{first:.0f} s"],
        ["decoding", f"{costs['decode_ms']:.2f} ms of a core a photo", _hours(costs["decode_ms"])],
        ["the network", f"{costs['model_ms']:.2f} ms of a core a photo", _hours(costs["model_ms"])],
        ["reading and the engine's work around it", "the rest of the steady rate",
         _hours(2e3 / rate - costs["decode_ms"] - costs["model_ms"])],
        ["writing", f"{parts:,} parts, {costs['write_part_ms']['median']:.0f} ms each, within the above",
         f"{writing:.0f} s"],
        ["**predicting**", f"{rate:.0f} photos/s of a node, {NODES * rate:,.0f} of all",
         f"**{predicting / 3600:.1f} h**, {NODES * predicting / 3600:,.0f} node hours"],
        ["data read", f"{1e3 * megabytes:.0f} kB a photo, {rate * megabytes:.1f} MB/s into a node",
         f"{PHOTOS * megabytes / 1e6:,.1f} TB"],
    ]  # fmt: skip
    return _common.table([f"{PHOTOS:,} photos on {NODES} nodes of two cores", "from", "takes"], rows)


def _hours(core_ms: float) -> str:
    """Return the hours in which the cores of all nodes do that for all photos."""
    return f"{PHOTOS * core_ms / 1e3 / (2 * NODES) / 3600:.2f} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="measure these again")
    parser.add_argument("--quick", action="store_true", help="little of everything; prints it and writes nothing")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--model", default=NETWORK, help="with --quick: another network, by name or exported file")
    options = parser.parse_args()
    if options.model != NETWORK and not options.quick:
        parser.error("--model is for --quick: the table is EfficientNet-Lite0's")
    if not options.table:
        path = _common.RESULTS / f"{NAME}.json"
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not options.quick else {}
        results = {name: kept[name] for name in SECTIONS if name in kept}
        with prepared(QUICK if options.quick else Sizes(), options.model) as bench:
            for name in options.only:
                start = time.perf_counter()
                results[name] = MEASUREMENTS[name](bench)
                print(f"{name}, {time.perf_counter() - start:.0f} s: {json.dumps(results[name])}", flush=True)
                if not options.quick:
                    _common.write(NAME, PACKAGES, {"required": REQUIRED, **results})
        if options.quick:
            return
    text = render(_common.read(NAME))
    _common.publish(NAME, text)
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        print(plain_seconds_of_all(*sys.argv[2:]))
    else:
        main()
