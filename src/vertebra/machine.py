"""The processor, and how many threads to start: the cores that this process may use, not those of the machine.

A container with a quota of two cores on a host of 64 that starts 64 threads is several times slower than with two:
the kernel stops all of them once the quota of a period is used up.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from vertebra.errors import UsageError, require_positive_int

THREAD_VARIABLES = ("VERTEBRA_THREADS", "OMP_NUM_THREADS")
THREADS_PER_CORE = 8  # that may be asked for; hundreds on a core wait for one another for minutes


def usable_cores(root: Path = Path("/")) -> int:
    """The number of threads that run at once: the least of affinity, cgroup quota (rounded up) and `THREAD_VARIABLES`.

    Raises:
        UsageError: `VERTEBRA_THREADS` is no number above 0.
    """
    limits = [_granted_cores(root)]
    for name in THREAD_VARIABLES:
        # OpenMP allows one number for each level of nesting: "4,2".
        value = os.environ.get(name, "").partition(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            limits.append(int(value))
        elif value and name == THREAD_VARIABLES[0]:
            raise UsageError(f"{name} is {value!r}; it must be a whole number above 0. Unset it to use every core.")
    return max(1, min(limits))


def require_threads(threads: int, root: Path = Path("/")) -> int:
    """Return a number of threads that was asked for.

    Raises:
        UsageError: it is no whole number above 0, or more than `THREADS_PER_CORE` for each core of this process.
    """
    cores = _granted_cores(root)
    if require_positive_int("threads", threads) > THREADS_PER_CORE * cores:
        raise UsageError(
            f"threads is {threads:,}, and this process may use {cores:,} core{'s' * (cores != 1)}; at most "
            f"{THREADS_PER_CORE * cores:,} are allowed, {THREADS_PER_CORE} a core. Leave it out for one a core."
        )
    return threads


def _granted_cores(root: Path) -> int:
    """The least of affinity and cgroup quota (rounded up)."""
    quota = quota_cores(root)
    return max(1, affinity_cores() if quota is None else min(affinity_cores(), math.ceil(quota)))


def affinity_cores() -> int:
    """The cores that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota_cores(root: Path = Path("/")) -> float | None:
    """The CPU quota of this process's cgroup, in cores: the smallest of its own and its parents'; None: no limit.

    Versions 1 and 2 of cgroups are read, below `root`.
    """
    quotas = []
    for hierarchy, group in _groups(root):
        unified = hierarchy.name == "cgroup" or hierarchy.name == "unified"
        folder = hierarchy / group.lstrip("/")
        # Inside a container the group's path is often that of the host, which is not visible here; then the root of
        # the hierarchy is the container's own group.
        for place in (folder, *folder.parents):
            quotas.append(_quota_v2(place) if unified else _quota_v1(place))
            if place == hierarchy:
                break
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(root: Path) -> list[tuple[Path, str]]:
    """(hierarchy's folder, group of this process) for each hierarchy that can limit CPU time."""
    base = root / "sys/fs/cgroup"
    found = [(base, "/"), (base / "cpu", "/")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers:  # version 2: "0::/user.slice/…"
            found += [(base, group), (base / "unified", group)]
        elif "cpu" in controllers.split(","):  # version 1: "4:cpu,cpuacct:/docker/…"
            found += [(base / "cpu", group), (base / controllers, group)]
    return found


def _quota_v2(folder: Path) -> float | None:
    """`cpu.max` holds "200000 100000" (microseconds a period) or "max 100000"."""
    found = re.fullmatch(r"(\d+) (\d+)\s*", _text(folder / "cpu.max"))
    return int(found[1]) / int(found[2]) if found and int(found[2]) else None


def _quota_v1(folder: Path) -> float | None:
    """Two files, of which the quota is -1 where there is no limit."""
    quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def processor_name(info: Path = Path("/proc/cpuinfo")) -> str | None:
    """The name of the processor; None where the system does not say."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text(info), re.MULTILINE)
    if found:
        return found[1]
    import platform  # here, because few systems need it and every prediction loads this module

    return platform.processor() or None
