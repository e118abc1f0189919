"""A Ray cluster of several nodes on this machine, whose nodes can be killed: `RayCluster`, for tests and bench/ray.py.

Its processes are started by one of its own, `python tests/ray_cluster.py FOLDER CPUS…`, which takes commands on
standard input: so a driver under test is a plain process that connects by address, and whatever becomes of a test, the
cluster ends when its standard input is closed. The head node has no CPU and runs no actor, as is usual where nodes come
and go, for a cluster does not outlive its head; each other node has an address of its own in 127.0.0.0/8, and nothing
listens elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

LOOPBACK = "127.0.0.1"
OBJECT_STORE = 100_000_000  # bytes a node
LOG = "cluster.log"
CLONE_NEWNS = 0x00020000  # of unshare(2): mounts of its own


class RayCluster:
    """A head node and `nodes` others of `cpus` CPUs each; `folder` holds their sockets and logs.

    Sockets have paths of at most 107 bytes, so `folder` is to be short: below 40 bytes.
    """

    def __init__(self, folder: str | Path, nodes: int = 2, cpus: int = 1, environment: dict[str, str] | None = None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.nodes: dict[str, int] = {}  # name -> process of the node's raylet, of those that run
        self._log = (self.folder / LOG).open("ab")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | _environment(self.folder) | (environment or {}),
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the test alone
        )
        try:
            self.address: str = self._ask("start")["address"]
            for _ in range(nodes):
                self.add()
        except BaseException:
            self.close()
            raise

    def _ask(self, what: str, **more: object) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            said = (self.folder / LOG).read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"the cluster does not answer to {what!r}; it said:\n{said}") from error
        assert isinstance(answer, dict)
        return answer

    def add(self, environment: dict[str, str] | None = None, hide: Path | None = None) -> str:
        """Start a node, wait until it is known, and return its name.

        It has these variables, too, and an empty folder where the others have `hide`, for which one has to be root.
        """
        answer = self._ask("add", environment=environment or {}, hide=None if hide is None else str(hide))
        self.nodes[answer["name"]] = answer["raylet"]
        return str(answer["name"])

    def kill(self, node: str) -> list[int]:
        """Kill a node as a power cut does: all its processes at once, without a word to any."""
        raylet = self.nodes.pop(node)
        killed = kill_with_descendants(raylet)
        self._ask("forget", name=node)
        return killed

    def pause(self, node: str) -> list[int]:
        """Stop a node's processes in their tracks, as a network that fails seems to; `proceed` lets them go on."""
        paused = descendants(self.nodes[node])
        for process in paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        return paused

    def workers(self, node: str) -> list[int]:
        """Return the processes that run the tasks and actors of a node."""
        agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
        found = {process: command_of(process) for process in descendants(self.nodes[node])}
        return [process for process, said in found.items() if said.startswith("ray::") and not said.startswith(agents)]

    def alive(self) -> list[str]:
        """Return the names of the nodes that Ray takes for alive, the head apart."""
        return list(self._ask("alive")["alive"])

    def logs(self) -> list[Path]:
        """Return every file of the session folders."""
        return [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]

    def close(self) -> None:
        """End all nodes and remove their files."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            kill_with_descendants(self._process.pid)
            self._process.wait()
        for raylet in self.nodes.values():
            kill_with_descendants(raylet)
        self.nodes.clear()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _environment(folder: Path) -> dict[str, str]:
    return {
        "RAY_TMPDIR": str(folder),  # else the cluster is noted in /tmp/ray, where any `ray.init()` takes it up
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "PYTHONUNBUFFERED": "1",
    }


# --- processes --------------------------------------------------------------------------------------------------------


def descendants(process: int) -> list[int]:
    """Return a process and all that come from it, the oldest first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # pid (name, which may have spaces and brackets) state parent …
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [process]
    for each in found:  # grows
        found += sorted(children.get(each, ()))
    return found


def kill_with_descendants(process: int) -> list[int]:
    """Kill a process and all that come from it; stopped first, so that none acts on the death of another."""
    found = descendants(process)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for each in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)
    return found


def command_of(process: int) -> str:
    """Return the command line of a process; "" when it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


# --- the process that starts the nodes --------------------------------------------------------------------------------


def _serve(folder: str, cpus: int) -> None:
    import ray._private.services
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w", buffering=1)  # of what Ray prints, nothing is an answer
    os.dup2(2, 1)
    # Ray replaces loopback addresses by the machine's own, on which others could reach the cluster.
    ray._private.services.resolve_ip_for_localhost = lambda host: host  # type: ignore[attr-defined]
    cluster = Cluster()
    nodes: dict[str, Any] = {}
    common = {"node_ip_address": LOOPBACK, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    number = 0
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if asked["do"] == "start":
            cluster.add_node(node_name="head", num_cpus=0, **common)
            answer = {"address": cluster.address}
        elif asked["do"] == "add":
            number += 1
            name = f"node-{number}"
            start = partial(cluster.add_node, node_name=name, num_cpus=cpus, **common)
            node = nodes[name] = _started(start, asked["environment"], asked["hide"])
            answer = {"name": name, "raylet": node.all_processes["raylet"][0].process.pid}
        elif asked["do"] == "forget":  # it is dead already; what is left of it here is collected
            with contextlib.suppress(AssertionError):
                cluster.remove_node(nodes.pop(asked["name"]), allow_graceful=False)
        elif asked["do"] == "alive":
            table = cluster.global_state.node_table()
            answer = {
                "alive": sorted(node["NodeName"] for node in table if node["Alive"] and node["NodeName"] != "head")
            }
        answers.write(json.dumps(answer) + "\n")
    cluster.shutdown()


def _started(start: Callable[[], Any], environment: dict[str, str], hide: str | None) -> Any:
    """Return the node that is started with these variables, and without a folder."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with contextlib.nullcontext() if hide is None else _without(hide):
            return start()
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _without(folder: str) -> Iterator[None]:
    """Inside, this thread and the processes that it starts have an empty folder in the place of this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "a mount namespace cannot be made")
    try:
        for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "tmpfs", folder]):
            subprocess.run(["mount", *command], check=True)
        yield
    finally:
        libc.setns(before, CLONE_NEWNS)
        os.close(before)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
