"""Which run belongs to which torchrun job, and how its processes find one another."""

import json
import re
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

pytest.importorskip("torch")

from vertebra.errors import InUseError, UsageError
from vertebra.files import locked
from vertebra.train import run_start
from vertebra.train.launch import Launch, LostProcessError
from vertebra.train.launch_record import LaunchRecord
from vertebra.train.process_join import Peer, check_peers, join
from vertebra.train.run_folder import LAUNCH, LOCK, METRICS, SETTINGS, TrainError
from vertebra.train.run_start import begin_run, begun_by_job
from vertebra.train.train_settings import Settings

SETTINGS_GIVEN = Settings.from_mapping({"data": "photos", "method": "finetune", "lr": 0.5, "ignore": ["extra"]}, "test")
FIRST = Launch(size=2, local_size=2, run_id="none", agent="host:/tmp/torchelastic_a/none_b", max_restarts=3)


def test_what_torchrun_sets():
    found = Launch.from_environment(
        {
            "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
            "TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": "2",
            "TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_a/job_b/attempt_1/1/error.json",
        }
    )  # fmt: skip
    assert found.agent.endswith(":/tmp/torchelastic_a/job_b")
    assert found == Launch(3, 4, 1, 2, 1, "job", found.agent, 1, 2)
    assert found.is_named
    assert found.is_restarted_next
    assert not replace(found, restarts=2).is_restarted_next
    # Without torchrun; and with --log-dir /dev/null, which leaves the file out.
    assert Launch.from_environment({}) == Launch()
    assert Launch.from_environment({"TORCHELASTIC_ERROR_FILE": "", "TORCHELASTIC_RUN_ID": "none"}).agent is None


OTHER_AGENT = {"host:/tmp/torchelastic_x/none_y"}


@pytest.mark.parametrize(
    ("run_id", "agents", "changed", "finished", "expected"),
    [
        ("none", {FIRST.agent}, {}, False, True),
        ("none", {FIRST.agent, *OTHER_AGENT}, {}, False, True),  # another machine was replaced
        ("none", {FIRST.agent}, {}, True, True),  # killed after the last file was written
        ("none", {FIRST.agent}, {"cwd": "/elsewhere"}, False, True),
        ("none", OTHER_AGENT, {}, False, False),
        ("none", set(), {}, False, False),
        ("none", {FIRST.agent}, {"lr": 0.25}, False, False),
        ("named", OTHER_AGENT, {}, False, True),  # every machine was replaced
        ("named", OTHER_AGENT, {}, True, False),  # the id is used for another job
        ("named", OTHER_AGENT, {"seed": 1}, False, False),
    ],
)
def test_whose_run_it_is(run_id, agents, changed, finished, expected, tmp_path):
    launch = replace(FIRST, run_id=run_id)
    with begin_run(SETTINGS_GIVEN, tmp_path / "run", launch, {FIRST.agent}) as folder:
        if finished:
            (folder / METRICS).write_text("{}")
    found = begun_by_job(replace(SETTINGS_GIVEN, **changed), tmp_path / "run", replace(launch, restarts=1), agents)
    assert found == (tmp_path / "run" if expected else None)
    other = replace(launch, run_id="other")
    assert begun_by_job(SETTINGS_GIVEN, tmp_path / "run", other, {FIRST.agent}) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"run_id": "none", "agents": 3, "settings": null}', "\udcff"])
def test_a_damaged_record_is_of_no_job(text, tmp_path):
    (tmp_path / LAUNCH).write_text(text, errors="surrogateescape")
    assert LaunchRecord.read(tmp_path) is None
    assert begun_by_job(SETTINGS_GIVEN, tmp_path, FIRST, {FIRST.agent}) is None


def test_without_out_the_run_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, run_id in enumerate(("a", "b")):
        launch = replace(FIRST, run_id=run_id)
        with begin_run(SETTINGS_GIVEN, None, launch, {FIRST.agent}) as folder:
            pass
        assert begun_by_job(SETTINGS_GIVEN, None, launch, {FIRST.agent}) == folder
        assert len(list((tmp_path / "runs").iterdir())) == number + 1


@pytest.mark.parametrize(
    "left", [{LOCK}, {LAUNCH}, {LAUNCH, f".{LAUNCH}", ".settings.0123456789ab.toml"}, {LAUNCH, SETTINGS}]
)
def test_killed_while_the_first_files_are_written(left, tmp_path):
    """The next start takes the folder, whoever it is; with settings only that of the same job."""
    run = tmp_path / "run"
    with begin_run(SETTINGS_GIVEN, run, FIRST, {FIRST.agent}):
        record, settings = (run / LAUNCH).read_text(), (run / SETTINGS).read_text()
    for path in run.iterdir():
        path.unlink()
    for name in left:
        (run / name).write_text({LAUNCH: record, SETTINGS: settings}.get(name, ""))
    if SETTINGS in left:
        with pytest.raises(UsageError, match="is not empty"), begin_run(SETTINGS_GIVEN, run, FIRST, OTHER_AGENT):
            pass
    begun = begun_by_job(SETTINGS_GIVEN, run, FIRST, {FIRST.agent})
    assert (begun is not None) == (LAUNCH in left)
    with begin_run(SETTINGS_GIVEN, run, replace(FIRST, restarts=1), {FIRST.agent}, begun) as folder:
        assert {path.name for path in folder.iterdir()} == {LAUNCH, SETTINGS, LOCK}
        assert Settings.from_toml(folder / SETTINGS) == SETTINGS_GIVEN
        assert LaunchRecord.read(folder).restarts == 1


def test_a_restart_waits_for_a_process_that_is_still_ending(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with begin_run(SETTINGS_GIVEN, run, FIRST, {FIRST.agent}):
        pass
    held, release = threading.Event(), threading.Event()

    def hold():
        with locked(run, "stop it"):
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        held.wait()
        with pytest.raises(InUseError), begin_run(SETTINGS_GIVEN, run, FIRST, {FIRST.agent}):  # of no earlier start
            pass
        monkeypatch.setattr(run_start, "LOCK_SECONDS", 0.2)
        with pytest.raises(InUseError, match="stop it first"), begin_run(SETTINGS_GIVEN, run, FIRST, begun=run):
            pass
        monkeypatch.undo()
        threading.Timer(0.3, release.set).start()
        with begin_run(SETTINGS_GIVEN, run, FIRST, {FIRST.agent}, run) as folder:
            assert folder == run
    finally:
        release.set()
        thread.join()


def test_what_fails_at_the_first_start_leaves_nothing(tmp_path):
    with pytest.raises(TrainError, match=r"^no photos$"), begin_run(SETTINGS_GIVEN, tmp_path / "run", FIRST):
        raise TrainError("no photos")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_at_a_restart_keeps_the_run(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with begin_run(SETTINGS_GIVEN, run, FIRST, {FIRST.agent}):
        pass

    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LaunchRecord, "write", full)
    told = re.escape(f"--resume {run}")
    with pytest.raises(TrainError, match=told), begin_run(SETTINGS_GIVEN, run, FIRST, begun=run):
        pass
    assert (run / SETTINGS).is_file()
    told = r"torchrun\.json cannot be written.*Nothing was begun"
    with pytest.raises(TrainError, match=told), begin_run(SETTINGS_GIVEN, tmp_path / "new", FIRST):
        pass
    assert not (tmp_path / "new").exists()


# --- joining ----------------------------------------------------------------------------------------------------------


class Memory(dict):
    """torch's store, in memory: what torchrun keeps over a restart."""

    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):
        return self[key]

    def check(self, keys):
        return all(key in self for key in keys)


def peer(rank, **changes):
    return replace(Peer(rank, rank // 2, "host", None, "cpu", {"torch": "2.14.0", "vertebra": "1.0"}), **changes)


def join_all(store, ranks, size, timeout=20.0):
    """What each of these ranks finds, which start in this order; an error in place of it."""
    found = {}

    def work(rank):
        try:
            found[rank] = join(store, peer(rank), size, timedelta(seconds=timeout))
        except LostProcessError as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=[rank]) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_find_one_another_again_in_a_store_that_remembers():
    """Rank 0 chooses a new prefix each time, and nobody takes one of a time before."""
    store, prefixes = Memory(), set()
    for ranks in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        found = join_all(store, ranks, 3)
        assert {peers == [peer(0), peer(1), peer(2)] for _, peers in found.values()} == {True}
        (prefix,) = {prefix for prefix, _ in found.values()}
        assert prefix not in prefixes
        prefixes.add(prefix)


def test_who_does_not_come_is_named():
    store = Memory()
    error = join_all(store, [0, 2], 4, timeout=0.3)[0]
    assert re.fullmatch(r"rank 1, 3 of 4 did not start within 0\.005 minutes", str(error))
    assert "rank 0 did not answer" in str(join_all(store, [1], 4, timeout=0.3)[1])  # which was there a while ago


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"versions": {"torch": "2.13.0", "vertebra": "1.0"}},
            r"^host \(node 1\) has torch 2\.13\.0, and host \(node 0",
        ),
        (
            {"versions": {"torch": "2.14.0", "vertebra": "1.1"}, "host": "b"},
            r"^b \(node 1\) has vertebra 1\.1, and host",
        ),
        ({"versions": {"torch": "2.14.0"}}, "has vertebra none"),
        ({"device": "cuda"}, r"^host \(node 0\) has no GPU for each of its processes, and host \(node 1\) has\."),
    ],
)
def test_machines_that_would_compute_something_else(changed, message):
    check_peers([peer(0), peer(1), peer(2)])
    with pytest.raises(UsageError, match=message):
        check_peers([peer(0), peer(1), peer(2, **changed)])


def test_the_record_is_short_json(tmp_path):
    with begin_run(SETTINGS_GIVEN, tmp_path / "run", FIRST, {FIRST.agent}) as folder:
        kept = json.loads((folder / LAUNCH).read_text())
    assert kept["run_id"] == "none"
    assert kept["agents"] == [FIRST.agent]
    assert len(kept["settings"]) == 64
