"""The command line as a process with standard streams closed: `without_streams(">&- 2>&-", argument, …)`."""

import subprocess
import sys


def without_streams(closed, *arguments):
    command = ["/bin/sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "vertebra", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
