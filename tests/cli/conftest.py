"""The command line, run in this process."""

import json
from dataclasses import dataclass

import pytest

from vertebra.cli import main


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("vertebra: ")
        return lines[0]


@pytest.fixture
def vertebra(capsys):
    """Call it with arguments; exit code and output come back."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
