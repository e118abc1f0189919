"""`python -m vertebra` is the command `vertebra`."""

from vertebra.cli import run

run()
