"""Processes that begin with torch and what takes long of ours imported already: `Forked(script, argument, …)`.

Used like `subprocess.Popen([sys.executable, script, argument, …], stdout=PIPE, stderr=PIPE, text=True)`, it takes
milliseconds to start, for it is forked from a process that this one starts once, not from this one: that has threads,
and its own names in place of others. Where there is no such thing, each is a start of its own.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

IMPORTED = ["torch", "torchvision", "vertebra.export", "vertebra.train.fit", "vertebra.train.report_page"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _run(command, environment, outputs, new_group):
    if new_group:
        os.setsid()
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)  # of the test, not of the process that it is forked from
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


class Forked:
    def __init__(self, *command, new_group=False, **environment):
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("output", "errors")]
        for path in self._outputs:
            path.touch()
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(kind)
        with mock.patch.dict(os.environ, ONE_THREAD):  # what it imports reads them
            if kind == "forkserver":
                forkserver.set_forkserver_preload(IMPORTED)
                forkserver.ensure_running()
            environment = os.environ | environment
            arguments = (list(map(str, command)), environment, list(map(str, self._outputs)), new_group)
            self._process = context.Process(target=_run, args=arguments)
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout=None):
        """Its output and errors, when it has ended."""
        self._process.join(timeout)
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired("forked", timeout)
        return tuple(path.read_text() for path in self._outputs)
