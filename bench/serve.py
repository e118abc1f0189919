"""A server under load: Vertebra beside the runtime alone and beside LitServe, overload, and a kill.

EfficientNet-Lite0 over loopback, 32 clients in processes of their own that share the cores with the server, and send
one JPEG after another as a form's file. The peer is LitServe with the same ONNX file, the same decoder, batching on,
and the number of workers, threads and images in a batch that is best here (`pip install litserve python-multipart`).
Ten times the load is 320 clients that together ask ten times as often as the server can answer. The photos are those
of `folder.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _common
from folder import photos, with_vertebra
from memory import resident_mb

CLIENTS = 32
PROCESSES = 2  # of clients
SECONDS = 60.0
TURNS = 12  # in these seconds: the two servers alternate, so that a slow minute of the machine hits both
WARM = 1.0
TIMES = 10  # of overload
DEADLINE_MS = 2000
# LitServe: workers, threads of each, images of a batch, milliseconds that it waits for one, its ZeroMQ queue or not.
PEER_SETTINGS = ((2, 1, 1, 0, 0), (2, 1, 4, 2, 0), (2, 1, 4, 2, 1), (2, 1, 8, 5, 0), (1, 2, 4, 2, 0), (1, 2, 8, 5, 0))

PEER = """
import os, sys
path, port, workers, threads, batch, wait, fast = sys.argv[1], *map(int, sys.argv[2:])
import io
import litserve
import numpy as np

class Classifier(litserve.LitAPI):
    def setup(self, device):
        import onnxruntime
        from vertebra.card import read_card
        from vertebra.pixels import network_pixels
        from pathlib import Path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.card = read_card(Path(path))
        self.pixels = network_pixels
        self.session.run(["probabilities"], {"image": np.zeros((1, 224, 224, 3), np.uint8)})

    def decode_request(self, request):
        return self.pixels(request["files"].file.read(), self.card.preprocessing)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        x = x if x.ndim == 4 else x[None]
        return self.session.run(["probabilities"], {"image": x})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        values = output.reshape(-1)
        best = np.argsort(-values, kind="stable")[:5]
        return {"predictions": [
            {"class": self.card.class_name(i), "index": i, "probability": float(values[i])} for i in best.tolist()
        ]}

if __name__ == "__main__":
    api = Classifier(max_batch_size=batch, batch_timeout=wait / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=60, fast_queue=bool(fast))
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="error", access_log=False)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def wait_for(url: str, process: subprocess.Popen[Any] | None = None, seconds: float = 60) -> float:
    start = time.perf_counter()
    while not answers(url):
        if process is not None and process.poll() is not None:
            sys.exit(f"the server has ended with {process.returncode}")
        if time.perf_counter() - start > seconds:
            sys.exit(f"{url} does not answer")
        time.sleep(0.01)
    return time.perf_counter() - start


@contextlib.contextmanager
def server(command: list[str], ready: str) -> Iterator[subprocess.Popen[Any]]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(ready, process)
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # and the workers that it may have left
            os.killpg(process.pid, signal.SIGKILL)


def ours(model: str, port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "vertebra", "serve", f"m={model}", "--port", str(port), *options]


def ask(
    port: int,
    paths: list[str],
    *,
    path: str = "/v1/predict",
    clients: int = CLIENTS,
    seconds: float = SECONDS,
    warm: float = WARM,
    **options: Any,
) -> dict[str, Any]:
    """What so many clients get in that time, all processes together: statuses, seconds, latencies."""
    script = Path(__file__).with_name("_client.py")
    folder = tempfile.TemporaryDirectory()
    started = []
    for number in range(PROCESSES):
        task = {
            "host": "127.0.0.1",
            "port": port,
            "path": path,
            "photos": paths,
            "connections": clients // PROCESSES,
            "seconds": seconds,
            "warm": warm,
            "offset": number * len(paths) // PROCESSES,
            **options,
        }
        answer = Path(folder.name) / f"{number}.json"
        started.append((answer, subprocess.Popen([sys.executable, str(script), json.dumps(task), str(answer)])))
    found = []
    for answer, process in started:
        if process.wait():
            sys.exit("a client has failed")
        found.append(json.loads(answer.read_text()))
    folder.cleanup()
    return pooled(found, max(answer["seconds"] for answer in found))


def pooled(answers: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What several got, as if one had got it in so many seconds."""
    return {
        "statuses": dict(sum((Counter(answer["statuses"]) for answer in answers), Counter())),
        "latencies": [value for answer in answers for value in answer["latencies"]],
        "others": [value for answer in answers for value in answer["others"]],
        "seconds": seconds,
    }


def figures(*answers: dict[str, Any]) -> dict[str, Any]:
    """Rate and quantiles of what was asked in one or several goes."""
    found = pooled(answers, sum(answer["seconds"] for answer in answers))
    latencies, others = found["latencies"], found["others"]
    return {
        "images_per_second": round(len(latencies) / found["seconds"], 1),
        "statuses": found["statuses"],
        **{f"p{share}_ms": quantile(latencies, share) for share in (50, 95, 99)},
        "max_ms": max(latencies, default=None),
        "max_other_ms": max(others, default=None),
    }


def load(port: int, paths: list[str], **options: Any) -> dict[str, Any]:
    """`ask` once, and its figures."""
    return figures(ask(port, paths, **options))


def quantile(values: list[float], share: int) -> float | None:
    return round(statistics.quantiles(values, n=100)[share - 1], 1) if len(values) > 1 else None


class Memory(threading.Thread):
    """Samples a process's resident memory."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.peak = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            with contextlib.suppress(OSError, KeyError):
                self.peak = max(self.peak, resident_mb(self.process)["VmRSS"])


def alone(model: str, paths: list[str]) -> float:
    """Images a second of the runtime, in a process of its own."""
    command = [sys.executable, __file__, "--alone", model, json.dumps(paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def peer(model: str, setting: tuple[int, ...]) -> Iterator[tuple[subprocess.Popen[Any], int]]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "peer.py"
        script.write_text(PEER)
        command = [sys.executable, str(script), model, str(port), *map(str, setting)]
        with server(command, f"http://127.0.0.1:{port}/health") as process:
            yield process, port


def trial(model: str, paths: list[str], setting: tuple[int, ...], seconds: float) -> float:
    with peer(model, setting) as (_, port):
        return float(load(port, paths, path="/predict", seconds=seconds)["images_per_second"])


def side_by_side(model: str, paths: list[str], setting: tuple[int, ...], seconds: float) -> dict[str, dict[str, Any]]:
    """Both servers under the same load, a slice of the time each; whoever's turn it is not stands still."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(server(ours(model, port), f"http://127.0.0.1:{port}/readyz"))
        memory = Memory(process.pid)
        memory.start()
        servers = {"vertebra": (process, port, "/v1/predict")}
        if setting:
            servers["litserve"] = (*stack.enter_context(peer(model, setting)), "/predict")
        for other, _, _ in servers.values():
            os.killpg(other.pid, signal.SIGSTOP)
            stack.callback(os.killpg, other.pid, signal.SIGCONT)  # a stopped process could not end
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for turn in range(TURNS):
            for name in list(servers)[:: 1 if turn % 2 else -1]:
                running, where, path = servers[name]
                os.killpg(running.pid, signal.SIGCONT)
                answers[name].append(ask(where, paths, path=path, seconds=seconds / TURNS))
                os.killpg(running.pid, signal.SIGSTOP)
        memory.ended.set()
    found = {name: figures(*parts) for name, parts in answers.items()}
    found["vertebra"]["peak_mb"] = round(memory.peak)
    return found


def overload(model: str, paths: list[str], rate: float, seconds: float) -> dict[str, Any]:
    """Ten times the clients, ten times the requests; then two clients, to see whether it has recovered."""
    port = free_port()
    clients = TIMES * CLIENTS
    headers = {"X-Deadline-Ms": str(DEADLINE_MS)}
    with server(ours(model, port), f"http://127.0.0.1:{port}/readyz") as process:
        before = load(port, paths, clients=2, seconds=3, warm=1)
        memory = Memory(process.pid)
        memory.start()
        found = load(port, paths, clients=clients, seconds=seconds, headers=headers, pause=clients / (TIMES * rate))
        after = load(port, paths, clients=2, seconds=3, warm=0)
        memory.ended.set()
    return {
        "clients": clients,
        "offered_per_second": round(TIMES * rate),
        "deadline_ms": DEADLINE_MS,
        **found,
        "peak_mb": round(memory.peak),
        "two_clients_before": {key: before[key] for key in ("p50_ms", "p99_ms", "statuses")},
        "two_clients_right_after": {key: after[key] for key in ("p50_ms", "p99_ms", "statuses")},
    }


def killed(model: str, paths: list[str], times: int) -> list[float]:
    """Seconds from `kill -9` until a supervisor's next process has answered a prediction."""
    port = free_port()
    command = ours(model, port)
    base = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    seconds = []
    try:
        wait_for(f"{base}/readyz", process)
        for _ in range(times):
            time.sleep(1)
            start = time.perf_counter()
            process.kill()
            process.wait()
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            wait_for(f"{base}/readyz", process)
            body = Path(paths[0]).read_bytes()
            call = urllib.request.Request(f"{base}/v1/predict", body, {"Content-Type": "image/jpeg"})
            with urllib.request.urlopen(call, timeout=10) as response:
                response.read()
            seconds.append(time.perf_counter() - start)
    finally:
        process.kill()
        process.wait()
    return seconds


def measure(n: int) -> Path:
    import vertebra

    seconds = float(os.environ.get("VERTEBRA_BENCH_SECONDS", SECONDS))
    paths = photos()
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/m.onnx"
        subprocess.run([sys.executable, "-m", "vertebra", "export", "efficientnet_lite0", "--out", model], check=True)
        network = vertebra.load(model)
        plan = network.runner(network.batch, tune=True).plan
        if importlib.util.find_spec("litserve") is None:
            print("LitServe is left out: it is not installed. Run: pip install litserve python-multipart")
        settings = PEER_SETTINGS if importlib.util.find_spec("litserve") else ()
        trials = {setting: trial(model, paths, setting, min(seconds, 6.0)) for setting in settings}
        best = max(trials, key=lambda setting: trials[setting], default=())
        runs: dict[str, list[Any]] = {"alone": [], "vertebra": [], "litserve": []}
        for _ in range(n):
            runs["alone"].append(alone(model, paths))
            for name, found in side_by_side(model, paths, best, seconds).items():
                runs[name].append(found)
            runs["alone"].append(alone(model, paths))
        rate = statistics.median(run["images_per_second"] for run in runs["vertebra"])
        results = {
            "photos": len(paths),
            "clients": CLIENTS,
            "seconds": seconds,
            "turns": TURNS,
            "plan": str(plan),
            "litserve_setting": dict(zip(("workers", "threads", "batch", "wait_ms", "fast_queue"), best, strict=False)),
            "litserve_trials": {" × ".join(map(str, setting)): rate for setting, rate in trials.items()},
            "alone_images_per_second": _common.summary(runs["alone"], digits=1),
            "vertebra": runs["vertebra"],
            "litserve": runs["litserve"],
            "of_alone": round(rate / statistics.median(runs["alone"]), 3),
            "overload": overload(model, paths, rate, min(seconds, 30.0)),
            "ready_after_kill_seconds": _common.summary(killed(model, paths, 5)),
        }
    packages = ("onnxruntime", "pillow", "fastapi", "uvicorn", "httptools", "uvloop", "litserve")
    return _common.write("serve", packages, results)


def render(document: dict[str, Any]) -> str:
    rows: list[list[object]] = [
        ["runtime alone, files", f"{document['alone_images_per_second']['median']:.1f}", "", "", "", ""]
    ]
    for name, label in (("vertebra", "vertebra serve"), ("litserve", "LitServe")):
        for run in document[name]:
            total = sum(run["statuses"].values())
            failed = total - run["statuses"].get("200", 0)
            rows.append(
                [label, f"**{run['images_per_second']:.1f}**", run["p50_ms"], run["p99_ms"], f"{total:,}", failed]
            )
    head = [
        f"{document['clients']} clients, EfficientNet-Lite0",
        "images/s",
        "p50, ms",
        "p99, ms",
        "requests",
        "failed",
    ]
    over = document["overload"]
    setting = document["litserve_setting"]
    peer_text = (
        f"LitServe with {setting['workers']} workers of {setting['threads']} threads, {setting['batch']} images a "
        f"batch, the best of {len(document['litserve_trials'])} settings. "
        if setting
        else ""
    )
    good, busy = (over["statuses"].get(status, 0) for status in ("200", "503"))
    other = sum(over["statuses"].values()) - good - busy
    after, before = over["two_clients_right_after"], over["two_clients_before"]
    ready = document["ready_after_kill_seconds"]
    return (
        f"{_common.table(head, rows)}\n\n"
        f"{document['seconds']:g} s each in {document['turns']} turns, clients on the same cores; the server reaches "
        f"{document['of_alone']:.0%} of the runtime alone. {peer_text}"
        f"Ten times the load ({over['clients']} clients, {over['offered_per_second']:,} requests/s offered, a deadline "
        f"of {over['deadline_ms'] / 1000:g} s): {good:,} answers were 200, {busy:,} were 503, {other} anything else, "
        f"the slowest after {max(over['max_ms'] or 0, over['max_other_ms'] or 0) / 1000:.2f} s, "
        f"{over['images_per_second']:.1f} images/s, {over['peak_mb']} MB at most; right after it two clients had a "
        f"median of {after['p50_ms']} ms ({before['p50_ms']} ms before). After `kill -9` a new process answered within "
        f"{ready['median']:.2f} s (at most {ready['max']:.2f}). {_common.footnote(document)}"
    )


if __name__ == "__main__":
    if "--alone" in sys.argv:
        paths = json.loads(sys.argv[3])
        print(json.dumps(len(paths) / with_vertebra(paths, sys.argv[2])["seconds"]))
    else:
        _common.main("serve", measure, render, n=1)
