"""torchrun starts all processes again after one was killed: the run goes on, with the weights of one left alone."""

import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import ONE_THREAD, Forked

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from safetensors.numpy import load_file

SCRIPT = Path(__file__).with_name("killed.py")
FLAGS = ["--model=mobilenet_v2", "--method=scratch", "--epochs=3", "--batch-size=8"]
FLAGS += [f"--set={setting}" for setting in ("image_size=32", "workers=0", "checkpoint_seconds=0")]
FILES = {
    "data.csv", "metrics.json", "metrics.jsonl", "model.onnx", "report.html", "settings.toml", "torchrun.json",
    "weights.safetensors",
}  # fmt: skip


def own_lines(errors):
    """Vertebra's lines on standard error, but for its progress; torchrun adds a report of its own."""
    lines = [line for line in errors.splitlines() if line.startswith("vertebra: ")]
    return [line for line in lines if not re.search(r"(so far|left)$", line)]


def weights_of(folder):
    assert {path.name for path in folder.iterdir()} - {"tensorboard"} == FILES
    return load_file(folder / "weights.safetensors")


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(other[name], tensor)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# --- the environment of torchrun, without it: no interpreter has to start ---------------------------------------------


def started(count, data, out, *, agent="/tmp/torchelastic_a/none_b", ranks=("0", "1"), **environment):
    """These of two processes, as torchrun starts them for the time numbered `count`."""
    shared = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": str(count), "TORCHELASTIC_MAX_RESTARTS": "1",
    }  # fmt: skip
    return [
        Forked(
            SCRIPT, "train", data, *FLAGS, *(["--out", out] if out else []), **shared | environment, RANK=rank,
            LOCAL_RANK=rank, TORCHELASTIC_ERROR_FILE=f"{agent}/attempt_{count}/{rank}/error.json",
        )
        for rank in ranks
    ]  # fmt: skip


def attempt(count, data, out, **environment):
    """Codes of these processes, and what each wrote."""
    processes = started(count, data, out, **environment)
    found = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], found


def test_the_next_attempt_goes_on_with_the_run_of_the_same_torchrun(shapes_without_broken, tmp_path):
    """Also without --out; and one of another torchrun with the same command does not."""
    kill = {"KILL": "vertebra.train.fit:learning_rate_factor:1:6", "KILL_MARK": tmp_path / "mark", "RUN_IN": tmp_path}
    kill = {name: str(value) for name, value in kill.items()}
    codes, ((_, errors), _) = attempt(0, shapes_without_broken, None, **kill)
    assert codes == [1, -signal.SIGKILL]
    (line,) = own_lines(errors)
    assert line.startswith("vertebra: another process ended: ")
    (folder,) = (tmp_path / "runs").iterdir()
    assert line.endswith(
        "torchrun goes on with the run (restart 1 of 1). If it was stopped itself, resume with: vertebra train "
        f"--resume {folder.relative_to(tmp_path)}"
    )
    before = (folder / "metrics.jsonl").read_text()
    assert before
    codes, ((_, errors), _) = attempt(1, shapes_without_broken, folder, agent="/tmp/torchelastic_a/none_c", **kill)
    assert codes == [2, 2]
    assert own_lines(errors) == [
        f"vertebra: {folder} is not empty. Give another --out, or --resume {folder} to go on with a run."
    ]
    codes, ((output, errors), (others, _)) = attempt(1, shapes_without_broken, None, **kill)
    assert codes == [0, 0], errors
    assert "held-out photos" in output
    assert not others
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert (folder / "metrics.jsonl").read_text().startswith(before)  # it was not begun anew
    assert json.loads((folder / "torchrun.json").read_text())["restarts"] == 1
    weights_of(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_rank_0(shapes_without_broken, tmp_path, number):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        port = str(server.getsockname()[1])
        (process,) = started(0, shapes_without_broken, tmp_path / "run", ranks=("1",), MASTER_PORT=port)
        server.accept()[0].close()
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == -number
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_twenty_times_at_random(shapes_without_broken, tmp_path):
    """One of the two, at any time of a run; the other ends by itself, or as torchrun ends it."""
    for name in ("first", "undisturbed"):  # the first also waits for what others are forked from
        start = time.monotonic()
        codes, _ = attempt(0, shapes_without_broken, tmp_path / name)
        assert codes == [0, 0]
    seconds, choose, restarts = time.monotonic() - start, random.Random(0), 0
    for number in range(20):
        folder = tmp_path / str(number)
        processes = started(0, shapes_without_broken, folder)
        time.sleep(choose.uniform(0, seconds))
        killed = choose.choice(processes)
        killed.send_signal(signal.SIGKILL)
        for process in processes:
            if killed.poll() != 0:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        if any(process.returncode for process in processes):
            codes, found = attempt(1, shapes_without_broken, folder)
            assert codes == [0, 0], found
            restarts += 1
        assert_same_weights(folder, tmp_path / "undisturbed")
    assert restarts > 5


# --- torchrun itself --------------------------------------------------------------------------------------------------


class Torchrun:
    """`torchrun FLAGS killed.py train ARGUMENTS`."""

    def __init__(self, *flags, arguments, **environment):
        command = [sys.executable, "-m", "torch.distributed.run", *flags, SCRIPT, "train", *arguments]
        environment = {**os.environ, **ONE_THREAD, **environment}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={name: str(value) for name, value in environment.items()},
        )  # fmt: skip

    def children(self):
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in path.read_text().split()]

    def ended(self, timeout=300):
        try:
            output, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, output, errors

    def kill(self):
        """torchrun with all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_for_an_epoch(folder, process):
    log = folder / "metrics.jsonl"
    while process.process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.02)


@pytest.fixture
def start():
    """`Torchrun(…)`, killed at the end of the test if it has not ended."""
    started = []

    def make(*flags, arguments, **environment):
        started.append(Torchrun(*flags, arguments=arguments, **environment))
        return started[-1]

    yield make
    for one in started:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture(scope="module")
def undisturbed(shapes_without_broken, tmp_path_factory):
    """The run of two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, _, errors = Torchrun("--nproc-per-node=2", arguments=[shapes_without_broken, *FLAGS, "--out", folder]).ended()
    assert code == 0, errors
    return folder


MOMENTS = {
    "before the settings are written": "vertebra.train.run_start:write_durably:0:1",
    "while preparing": "vertebra.train.prepare_training:format_data_table:0:1",
    "while another prepares": "vertebra.train.machine_checks:require_shared:1:1",
    "in a step": "vertebra.train.fit:learning_rate_factor:1:7",
    "in a step, rank 0": "vertebra.train.fit:learning_rate_factor:0:7",
    "while a checkpoint is written": "vertebra.train.run_checkpoint:save_file:0:6",
    "while measuring": "vertebra.train.pipeline:evaluate_training:1:1",
    "while the outputs are written": "vertebra.train.run_outputs:write_json:0:1",
    "after the outputs are written": "vertebra.train.pipeline:remove_training_state:0:1",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(moment, start, undisturbed, shapes_without_broken, tmp_path):
    process = start(
        "--nproc-per-node=2", "--max-restarts=3", arguments=[shapes_without_broken, *FLAGS, "--out", tmp_path / "run"],
        KILL=MOMENTS[moment], KILL_MARK=tmp_path / "mark",
    )  # fmt: skip
    code, output, errors = process.ended()
    assert code == 0, errors
    assert (tmp_path / "mark").exists()
    assert "held-out photos" in output
    assert "Traceback" not in errors
    assert len(own_lines(errors)) <= 1
    assert json.loads((tmp_path / "run" / "torchrun.json").read_text())["restarts"] <= 1
    assert_same_weights(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_the_last_restart_says_how_to_resume(start, shapes_without_broken, tmp_path):
    process = start(
        "--nproc-per-node=2", "--max-restarts=1", arguments=[shapes_without_broken, *FLAGS, "--out", tmp_path / "run"],
        KILL="vertebra.train.fit:learning_rate_factor:1:3",
    )  # fmt: skip
    code, _, errors = process.ended()
    assert code != 0
    first, last = own_lines(errors)
    assert "torchrun goes on with the run (restart 1 of 1)" in first
    assert last.endswith(f". Resume with: vertebra train --resume {tmp_path / 'run'}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_stopped_restarts_nothing(number, start, shapes_without_broken, tmp_path):
    folder = tmp_path / "run"
    arguments = [shapes_without_broken, *FLAGS, "--epochs=500", "--out", folder]
    process = start("--nproc-per-node=2", "--max-restarts=3", arguments=arguments)
    wait_for_an_epoch(folder, process)
    # A terminal sends Ctrl-C to all, and torchrun sends it on.
    for pid in [process.process.pid, *(process.children() if number == signal.SIGINT else [])]:
        os.kill(pid, number)
    code, _, errors = process.ended()
    assert code != 0
    assert {line.partition(" step ")[0] for line in own_lines(errors)} == {"vertebra: stopped after"}
    assert json.loads((folder / "torchrun.json").read_text())["restarts"] == 0


@pytest.mark.slow
def test_a_probe_goes_on_too(start, shapes, small_weights, tmp_path):
    """One process; several have nothing to share."""
    arguments = [shapes, "--model=resnet18", f"--weights={small_weights}", "--set=folds=3"]
    kill = {"KILL": "vertebra.train.pipeline:evaluate_probe:0:1", "KILL_MARK": tmp_path / "mark"}
    process = start("--nproc-per-node=1", "--max-restarts=1", arguments=[*arguments, "--out", tmp_path / "run"], **kill)
    code, output, errors = process.ended()
    assert code == 0, errors
    assert "held-out photos" in output
    assert "another process" not in errors
    assert (tmp_path / "mark").exists()
    process = start("--nproc-per-node=2", arguments=[*arguments, "--out", tmp_path / "several"])
    code, _, errors = process.ended()
    assert code != 0
    (line,) = own_lines(errors)
    assert line.startswith("vertebra: the probe has nothing to share among processes")
    assert not (tmp_path / "several").exists()


@pytest.mark.slow
def test_killed_at_random(start, undisturbed, shapes_without_broken, tmp_path):
    """Each process of a run that takes about as long as the undisturbed one may be killed, up to three times."""
    for seed in range(3):
        choose, folder = random.Random(seed), tmp_path / str(seed)
        arguments = [shapes_without_broken, *FLAGS, "--out", folder]
        process = start("--nproc-per-node=2", "--max-restarts=3", arguments=arguments)
        for _ in range(3):
            time.sleep(choose.uniform(3, 12))
            if children := process.children():
                os.kill(choose.choice(children), signal.SIGKILL)
        code, _, errors = process.ended()
        assert code == 0, errors
        assert_same_weights(folder, undisturbed)


# --- two machines, each with a torchrun of its own --------------------------------------------------------------------


def two_machines(start, arguments, *flags, rendezvous="c10d", processes=1, each=({}, {}), **environment):
    """Both on this one, on loopback."""
    port = free_port()
    meet = {
        "c10d": ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"],
        "static": ["--master-addr=127.0.0.1", f"--master-port={port}"],
    }[rendezvous]
    common = ["--nnodes=2", f"--nproc-per-node={processes}", *meet, *flags]
    return [
        start(*common, *([f"--node-rank={node}"] if rendezvous == "static" else []), arguments=arguments,
              **environment, **each[node])
        for node in range(2)
    ]  # fmt: skip


def all_ended(machines):
    """Codes and Vertebra's lines of both; and all their errors, for a failing test."""
    found = [machine.ended() for machine in machines]
    return [code for code, _, _ in found], [own_lines(errors) for *_, errors in found], [errors for *_, errors in found]


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["c10d", "static"])
def test_two_machines_learn_what_one_does(rendezvous, start, undisturbed, shapes_without_broken, tmp_path):
    """Also where a process of the second is killed in between."""
    arguments = [shapes_without_broken, *FLAGS, "--out", tmp_path / "run"]
    kill = {"KILL": "vertebra.train.fit:learning_rate_factor:1:7", "KILL_MARK": tmp_path / "mark"}
    machines = two_machines(start, arguments, "--max-restarts=3", rendezvous=rendezvous, **kill)
    codes, _, errors = all_ended(machines)
    assert codes == [0, 0], errors
    assert (tmp_path / "mark").exists()
    assert_same_weights(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_machine_is_lost_and_comes_back(start, undisturbed, shapes_without_broken, tmp_path):
    folder = tmp_path / "run"
    arguments = [shapes_without_broken, *FLAGS, "--out", folder]
    port = free_port()
    flags = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--local-addr=127.0.0.1", "--max-restarts=3"]
    flags += [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-conf=keep_alive_interval=1"]
    # torch 2.14 else gives the new torchrun no address of the one that is left, and both end after a minute.
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    first = start(*flags, arguments=arguments, **own_store)
    time.sleep(1)
    kill = {"KILL": "vertebra.train.fit:learning_rate_factor:*:7", "KILL_MARK": tmp_path / "mark", "KILL_PARENT": 1}
    second = start(*flags, arguments=arguments, **own_store, **kill)
    assert second.ended()[0] == -signal.SIGKILL
    assert (tmp_path / "mark").exists()
    again = start(*flags, arguments=arguments, **own_store)
    codes, _, errors = all_ended([first, again])
    assert codes == [0, 0], errors
    assert_same_weights(folder, undisturbed)


OWN = "/proc/self/cwd"  # a path that is another place for each process, as a disk of its own


@pytest.fixture
def own_places(tmp_path):
    """The environments of two machines whose `OWN` differs."""
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    return [{"RUN_IN": place} for place in places]


@pytest.mark.slow
def test_a_run_that_the_machines_do_not_share(start, own_places, shapes_without_broken, tmp_path):
    arguments = [shapes_without_broken, *FLAGS, "--out", f"{OWN}/run"]
    codes, (first, second), errors = all_ended(two_machines(start, arguments, each=own_places, rendezvous="static"))
    assert codes == [1, 1]
    assert re.fullmatch(
        rf"vertebra: {OWN}/run on \S+ \(node 1\) is not the folder {OWN}/run of \S+ \(node 0\), which writes the run\. "
        r"All machines must share one folder: give each the same --out, on a file system that all of them have\.",
        *first,
    ), errors
    assert not second
    assert not any((tmp_path / name / "run").exists() for name in ("first", "second"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["copy", "missing", "other"])
def test_photos_of_the_machine_itself(fault, start, own_places, undisturbed, shapes_without_broken, tmp_path):
    for place in own_places:
        shutil.copytree(shapes_without_broken, place["RUN_IN"] / "photos")
    rows = list(csv.DictReader((undisturbed / "data.csv").open()))
    name = Path(*Path(next(row["path"] for row in rows if row["split"] == "train")).parts[-2:])
    if fault == "missing":
        (tmp_path / "second" / "photos" / name).unlink()
    elif fault == "other":
        shutil.copy(shapes_without_broken / "stripes" / "wrong.png", tmp_path / "second" / "photos" / name)
    arguments = [f"{OWN}/photos", *FLAGS, "--out", tmp_path / "run"]
    codes, (first, second), errors = all_ended(two_machines(start, arguments, each=own_places, rendezvous="static"))
    if fault == "copy":
        assert codes == [0, 0], errors
        assert_same_weights(tmp_path / "run", undisturbed)
        return
    assert codes == [1, 1]
    what = {"missing": "1 photo of the run is missing", "other": "a photo has been changed"}[fault]
    (line,) = first
    assert re.match(rf"vertebra: \S+ \(node 1\) has other photos than \S+ \(node 0\): {what}", line), errors
    assert f"({OWN}/photos/{name})" in line
    assert not second
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("each", "message"),
    [
        (({}, {"VERSION": "0.0.1"}), r"\(node 1\) has vertebra 0\.0\.1, and \S+ \(node 0\) has "),
        (
            ({"MORE": "--lr=0.5"}, {"MORE": "--lr=0.25"}),
            r"\(node 1\) was started with lr 0\.25, and \S+ \(node 0\) ",
        ),
    ],
)
def test_machines_started_in_another_way(each, message, start, shapes_without_broken, tmp_path):
    arguments = [shapes_without_broken, *FLAGS, "--out", tmp_path / "run"]
    codes, (first, second), errors = all_ended(two_machines(start, arguments, each=each, rendezvous="static"))
    assert codes == [1, 1]
    (line,) = first
    assert re.search(message, line), errors
    assert not second
    assert not (tmp_path / "run").exists()
