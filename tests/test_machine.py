"""Threads come from what the process may use."""

import os

import pytest

from vertebra import machine as module
from vertebra.errors import UsageError
from vertebra.machine import processor_name, quota_cores, require_threads, usable_cores


@pytest.fixture
def root(tmp_path):
    """A machine's files, by path."""

    def make(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return make


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in module.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        # A group's own limit, and a stricter one above it.
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            3,
        ),
        # The host's path, which a container cannot see.
        ({"proc/self/cgroup": "0::/host/only\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        # Version 1.
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_quota(root, files, cores):
    assert quota_cores(root(files)) == cores


def test_the_least_limit_holds(root, monkeypatch):
    monkeypatch.setattr(module, "affinity_cores", lambda: 16)
    machine = root({"sys/fs/cgroup/cpu.max": "350000 100000\n"})
    assert usable_cores(machine) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert usable_cores(machine) == 2
    monkeypatch.setenv("VERTEBRA_THREADS", "1")
    assert usable_cores(machine) == 1


def test_half_a_core_is_one_thread(root):
    assert usable_cores(root({"sys/fs/cgroup/cpu.max": "50000 100000\n"})) == 1


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_a_wrong_number_of_threads(monkeypatch, value):
    monkeypatch.setenv("VERTEBRA_THREADS", value)
    with pytest.raises(UsageError, match="VERTEBRA_THREADS"):
        usable_cores()


def test_more_threads_than_cores_can_run_are_refused(root, monkeypatch):
    monkeypatch.setattr(module, "affinity_cores", lambda: 4)
    machine = root({"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what is asked for is above it
    assert [require_threads(number, machine) for number in (1, 3, 16)] == [1, 3, 16]
    with pytest.raises(
        UsageError, match=r"^threads is 1,000, and this process may use 2 cores; at most 16 are allowed"
    ):
        require_threads(1000, machine)
    for wrong in (0, 2.5, "4"):
        with pytest.raises(UsageError, match="whole number of at least 1"):
            require_threads(wrong, machine)


def test_affinity_is_obeyed():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_of_the_root_group(tmp_path, files, cores):
    base = tmp_path / "sys/fs/cgroup"
    base.mkdir(parents=True)
    for name, content in files.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(content)
    assert quota_cores(tmp_path) == cores


def test_processor(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n")
    assert processor_name(info) == "Fast CPU @ 3 GHz"
    info.write_text("Processor: none of that form\n")
    assert processor_name(info) != "Fast CPU @ 3 GHz"
