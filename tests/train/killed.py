"""`vertebra` with tiny networks, killed at a given moment: `KILL=vertebra.train.fit:learning_rate_factor:1:5`.

That is module, function, rank (or * for any) and which call of it; the process is killed in place of the call, with
`KILL_PARENT` after its torchrun. `KILL_MARK` names a file that is made then; where it is there already, as when
torchrun starts the processes again, nothing is killed.
`RUN_IN` is the working directory, `VERSION` that of Vertebra, `MORE` a further argument.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

from tiny import tiny_names

import vertebra
from vertebra.cli import run


def arm(moment, mark):
    """Replace the function by one that ends the process."""
    module, name, rank, call = moment.split(":")
    if rank not in ("*", os.environ.get("RANK", "0")) or (mark and Path(mark).exists()):
        return
    found = importlib.import_module(module)
    before, calls = getattr(found, name), []

    def replaced(*arguments, **options):
        calls.append(name)
        if len(calls) == int(call):
            if mark:
                Path(mark).touch()
            if "KILL_PARENT" in os.environ:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*arguments, **options)

    setattr(found, name, replaced)


if __name__ == "__main__":
    os.chdir(os.environ.get("RUN_IN", "."))
    vertebra.__version__ = os.environ.get("VERSION", vertebra.__version__)
    sys.argv += filter(None, [os.environ.get("MORE")])
    with tiny_names():
        if "KILL" in os.environ:
            arm(os.environ["KILL"], os.environ.get("KILL_MARK"))
        run()
