"""Exit codes, errors of one line, --debug, Ctrl-C and closed pipes: what holds for every command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from closed_streams import without_streams

import vertebra as package
from vertebra import cli
from vertebra.cli import _app
from vertebra.errors import UsageError, VertebraError, WeightsError
from vertebra.signals import Terminated


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)


def failing(monkeypatch, error):
    """Make every command raise this error."""

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(_app, "import_module", fail)


def test_help_lists_every_command(vertebra):
    for arguments in (["--help"], []):
        result = vertebra(*arguments)
        assert result.code == 0
        assert result.err == ""
        for name, line in _app.COMMANDS.items():
            assert name in result.out
            assert line in result.out


@pytest.mark.parametrize("name", _app.COMMANDS)
def test_every_command_has_help(vertebra, name):
    result = vertebra(name, "--help")
    assert result.code == 0
    assert f"Usage: vertebra {name}" in result.out
    # The list of commands promises what the command itself says.
    assert _app.COMMANDS[name].split()[0] in result.out


def test_version(vertebra):
    assert vertebra("--version").out == f"vertebra {package.__version__}\n"


def test_unknown_command_names_the_nearest(vertebra):
    result = vertebra("pedict")
    assert result.code == 2
    assert result.out == ""
    assert "'pedict'" in result.error
    assert "Did you mean 'predict'" in result.error


def test_unknown_command_that_is_near_nothing_lists_all(vertebra):
    assert ", ".join(_app.COMMANDS) in vertebra("xyz").error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["models", "--max-params", "many"],
        ["models", "--sort", "beauty"],
        ["predict"],
        ["predict", "a.jpg", "--top", "0"],
        ["predict", "a.jpg", "--top", "-3"],
        ["predict", "a.jpg", "--top", "five"],
        ["predict", "a.jpg", "--topp", "3"],
        ["weights", "fetch"],
        ["weights", "steal"],
        ["doctor", "please"],
    ],
)
def test_wrong_calls_are_one_line_and_exit_2(vertebra, arguments):
    result = vertebra(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "--help" in result.error, "says where to look"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "photos", "--precision", "0,95"], "Write 0.95, with a decimal point. See: vertebra train --help"),
        (["models", "--max-params", ",5"], "Write 0.5, with"),
        (["choose", "--max-params", "5,25"], "Write 5.25, with"),
        (["predict", "a.jpg", "--top", "1,5"], "See: vertebra predict --help"),
    ],
)
def test_a_decimal_comma_is_told(vertebra, arguments, hint):
    result = vertebra(*arguments)
    assert result.code == 2 and hint in result.error


@pytest.mark.parametrize(
    ("error", "code"),
    [(VertebraError("broken\n  in two lines"), 1), (WeightsError("x"), 1), (UsageError("x"), 2)],
)
def test_errors_of_ours_are_one_line(vertebra, monkeypatch, error, code):
    failing(monkeypatch, error)
    result = vertebra("models")
    assert result.code == code
    assert result.error == f"vertebra: {' '.join(str(error).split())}"


def test_unexpected_errors_say_how_to_see_more(vertebra, monkeypatch):
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    result = vertebra("models")
    assert result.code == 1
    assert "ZeroDivisionError: division by zero" in result.error
    assert "--debug" in result.error


@pytest.mark.parametrize("arguments", [["--debug", "models"], ["models", "--debug"]])
@pytest.mark.parametrize("error", [UsageError("x"), ZeroDivisionError("x"), KeyboardInterrupt()])
def test_debug_shows_the_traceback_before_or_after_the_command(vertebra, monkeypatch, arguments, error):
    failing(monkeypatch, error)
    if isinstance(error, KeyboardInterrupt):
        assert vertebra(*arguments).code == 130
        return
    with pytest.raises(type(error)):
        vertebra(*arguments)


def test_debug_after_two_dashes_is_an_argument():
    assert cli._extract_debug(["predict", "--", "--debug"]) == (["predict", "--", "--debug"], False)
    assert cli._extract_debug(["predict", "--debug", "--", "--debug"]) == (["predict", "--", "--debug"], True)
    assert cli._extract_debug([]) == ([], False)


def test_interrupt_is_quiet(vertebra, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt())
    result = vertebra("models")
    assert result.code == 130
    assert "Traceback" not in result.err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_in_a_real_process():
    code = """
import time
from vertebra.cli import _app
_app.import_module = lambda name: (print("ready", flush=True), time.sleep(60))
import sys
sys.argv = ["vertebra", "models"]
from vertebra.cli import run
run()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_reader_that_leaves_is_no_error(size):
    """As in `vertebra … | head -1`, whether the output breaks in the command or when it is flushed at the end."""
    code = f"""
import sys, types, typer
from vertebra.cli import _app
fake = types.SimpleNamespace(app=typer.Typer())
@fake.app.command()
def models(): print("x" * {size})
_app.import_module = lambda name: fake
sys.stdin.readline()
sys.argv = ["vertebra", "models"]
from vertebra.cli import run
run()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert errors == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["models", "--json"]])
def test_a_full_disk_behind_standard_output(arguments):
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "vertebra", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == (
        "vertebra: the disk is full (No space left on device). Make room and run the command again.\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [["--version"], ["train"]])
def test_closed_standard_streams_are_no_error(vertebra, closed, arguments):
    done = without_streams(closed, *arguments)
    whole = vertebra(*arguments)
    assert done.returncode == whole.code, done.stderr
    assert done.stdout == ("" if " >&-" in f" {closed}" else whole.out)
    assert done.stderr == ("" if "2>&-" in closed else whole.err)


def test_python_m_vertebra_and_the_script_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "vertebra", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"vertebra {package.__version__}\n"


def test_without_torch_a_command_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\nfrom vertebra.cli import main\nsys.exit(main(['choose']))"
    done = python(code)
    assert done.returncode == 2
    assert "pip install 'vertebra[torch]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_completion_knows_the_commands():
    environment = {**os.environ, "_VERTEBRA_COMPLETE": "complete_bash", "COMP_WORDS": "vertebra mo", "COMP_CWORD": "1"}
    done = python("from vertebra.cli import main; main([])", env=environment)
    assert done.stdout.split() == ["models"]


def test_a_package_that_is_missing_deep_inside_is_told_with_its_extra(vertebra, monkeypatch):
    failing(monkeypatch, ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard"))
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = vertebra("models")
    assert result.code == 2
    assert result.error == (
        "vertebra: vertebra models needs packages that are not installed. Run: pip install 'vertebra[train]'"
    )


@pytest.mark.parametrize("command", ["audit", "export", "bench"])
@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Terminated(signal.SIGTERM), 143)])
def test_what_was_stopped_says_how_to_go_on(vertebra, monkeypatch, command, stop, code):
    failing(monkeypatch, stop)
    result = vertebra(command)
    assert result.code == code
    advice = {
        "audit": "What was found out about photos is kept: the same command looks at the others only.",
        "export": "Nothing was written. Run the same command again.",
    }
    assert result.error == f"vertebra: stopped. {advice.get(command, '')}".rstrip()


@pytest.mark.parametrize(("under_torchrun", "told"), [(True, ""), (False, "vertebra: stopped.\n")])
def test_a_process_that_torchrun_ends_says_nothing(vertebra, monkeypatch, under_torchrun, told):
    """The one that failed has said why."""

    def ended(arguments):
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr(cli, "_dispatch", ended)
    if under_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    result = vertebra("train", "photos")
    assert (result.code, result.err) == (143, told)
