"""The command `vertebra`: one module a command, imported when it is invoked.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 stopped with Ctrl-C, 143 with SIGTERM. An error is one
line on stderr; `--debug`, anywhere on the line, shows the traceback instead.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from vertebra.cli._standard_streams import replace_closed_streams
from vertebra.errors import UsageError, VertebraError, VertebraWarning, import_problem, printable
from vertebra.files import disk_is_full
from vertebra.signals import raise_on_termination

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
# Command -> how to resume it after an interrupt.
_RESUME_HINTS = {
    "audit": "What was found out about photos is kept: the same command looks at the others only.",
    "evaluate": "What was found out about photos is kept: the same command looks at the others only.",
    "export": "Nothing was written. Run the same command again.",
    "predict": "Run the same command again; with --out FILE it could go on with --resume.",
    "weights": "What has come of a file is kept: the same command goes on from there.",
}


def run() -> None:
    """Entry point of the installed script: run the command line and exit with its code."""
    replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that the terminal's encoding lacks is shown escaped, and is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow's warnings on photos that it can read are of no use here.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    code = main(sys.argv[1:])
    # Ray's threads, interrupted anywhere, may crash the interpreter as it takes itself apart; and that takes a seventh
    # of the time of predicting a photo. What `predict` writes has been closed by now.
    if (code >= EXIT_INTERRUPTED and "ray" in sys.modules) or sys.argv[1:2] == ["predict"]:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run `vertebra ARGUMENTS…` and return its exit code; errors are printed, or raised with `--debug`."""
    arguments, debug = _extract_debug(arguments)
    try:
        with raise_on_termination(), _print_warnings():
            return _dispatch(arguments)
    except KeyboardInterrupt as stop:
        return _report_interrupt(stop, _command_name(arguments))
    except BrokenPipeError:
        # The reader (`| head`) has ended. Python would raise once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except VertebraError as error:
        if debug:
            raise
        return _report(getattr(error, "on_command_line", None) or str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        if (problem := import_problem(error, _command_name(arguments))) is not None:
            return _report(str(problem), problem.exit_code)
        if isinstance(error, OSError) and disk_is_full(error):  # of standard output, too, where that is a file
            return _report(f"the disk is full ({error.strerror}). Make room and run the command again.", EXIT_FAILURE)
        hint = "This is not an error that vertebra expects; run the command again with --debug to see where it arose."
        if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
            name = os.fsdecode(error.filename)
            return _report(f"{name} cannot be used ({error.strerror}). {hint}", EXIT_FAILURE)
        return _report(f"{type(error).__name__}: {error}. {hint}", EXIT_FAILURE)


@contextmanager
def _print_warnings() -> Iterator[None]:
    """Print each `VertebraWarning` once after a command that succeeds; a failure prints only its error."""
    texts: dict[str, None] = {}

    def keep(message: Warning | str, category: type[Warning], *place: Any, **kind: Any) -> None:
        if issubclass(category, VertebraWarning):
            texts[str(message)] = None
        else:
            others(message, category, *place, **kind)

    with warnings.catch_warnings():
        others = warnings.showwarning
        warnings.simplefilter("always", VertebraWarning)
        warnings.showwarning = keep
        yield
    for message in texts:
        _report(message, 0)


def _extract_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Remove `--debug` from the arguments before a `--`, and return whether it was there."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return options + arguments[end:], len(options) < end


def _command_name(arguments: Sequence[str]) -> str:
    """The command that was typed: `"vertebra train"`."""
    return " ".join(["vertebra", *[word for word in arguments if not word.startswith("-")][:1]])


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["predict"]:
        from vertebra.cli import _prediction
        from vertebra.cli._plain_call import plain_settings

        if (settings := plain_settings(_prediction.Settings, arguments[1:])) is not None:
            _prediction.predict(settings)
            sys.stdout.flush()
            return 0
    # Imported inside main's handlers: Ctrl-C while these load ends without a traceback too.
    import typer

    from vertebra.cli._app import Interrupted, command

    try:
        result = command().main(arguments, prog_name="vertebra", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        # What typer finds wrong with the call itself: an unknown option, a missing or malformed value.
        if type(error).__name__ == "NoArgsIsHelpError":  # a command that needs another word, given alone
            typer.echo(error.format_message(), err=True)
            return UsageError.exit_code
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "vertebra"
        message = error.format_message().rstrip(".")
        if comma := re.search(r"'([+-]?\d*),(\d+)' is not a valid float", message):
            message += f". Write {comma[1] or 0}.{comma[2]}, with a decimal point"
        raise UsageError(f"{message}. See: {path} --help") from error
    except Interrupted as interrupted:
        raise interrupted.__cause__ or KeyboardInterrupt from None
    except typer.Abort:
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _report_interrupt(stop: KeyboardInterrupt, command: str) -> int:
    """Print how to resume after Ctrl-C or a signal that asks to end: the notes of the error, or `_RESUME_HINTS`."""
    exit_code = getattr(stop, "exit_code", EXIT_INTERRUPTED)
    if "TORCHELASTIC_RUN_ID" in os.environ and not getattr(stop, "__notes__", None):
        return exit_code  # torchrun ends all processes where one fails, and that one has printed why
    told = getattr(stop, "__notes__", None) or [_RESUME_HINTS.get(command.removeprefix("vertebra "), "")]
    return _report(f"stopped. {' '.join(told)}".rstrip(), exit_code)


def _report(message: str, exit_code: int) -> int:
    """Print one line on stderr; a message that was written over several lines is joined."""
    print(f"vertebra: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    return exit_code
