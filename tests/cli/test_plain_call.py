"""A plain call is read without typer, and as typer reads it."""

import subprocess
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertebra.cli import _prediction
from vertebra.cli._options import options_of
from vertebra.cli._plain_call import plain_settings
from vertebra.cli._ray_option import OptionalAddress

WORDS = ("a.jpg", "photos/", "ü 7.png", "x=1", "+3", "", "https://example.org/a.jpg")
OPTIONS = ("--model", "--weights", "--engine", "--top", "--batch", "--threads", "--bits", "--out", "--ray")
VALUES = ("m.onnx", "3", "0", "-1", "03", "1e3", "٣", "", "local", str(10**30))
FLAGS = ("--json", "--embed", "--resume", "--fast-jpeg")
OTHERS = ("--", "-", "--js", "--help", "--top=3", "--no-json", "-x")


def by_typer(arguments):
    """The settings that typer makes of the arguments; None where it refuses them."""
    found = []
    app = typer.Typer()
    app.command(cls=OptionalAddress)(options_of(_prediction.Settings)(found.append))
    with suppress(typer.TyperException), redirect_stdout(StringIO()):
        typer.main.get_command(app).main(arguments, standalone_mode=False)
    return found[0] if found else None


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (50, 40), "green").save(tmp_path / "a.jpg")
    return str(tmp_path / "a.jpg")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(WORDS).map(lambda word: [word]),
            st.sampled_from(FLAGS).map(lambda flag: [flag]),
            st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)).map(list),
            st.sampled_from((*OTHERS, *OPTIONS)).map(lambda word: [word]),
        ),
        max_size=5,
    ).map(lambda parts: [word for part in parts for word in part])
)
def test_it_is_read_as_typer_reads_it(arguments):
    found = plain_settings(_prediction.Settings, arguments)
    assert found is None or found == by_typer(arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.jpg"], {}),
        (["--model", "m.onnx", "a.jpg", "b"], {"model": "m.onnx"}),
        (["a.jpg", "--top", "3", "--json", "--fast-jpeg"], {"top": 3, "json": True, "fast_jpeg": True}),
        (["a.jpg", "--top", "3", "--top", "4"], {"top": 4}),
    ],
)
def test_plain_calls(arguments, expected):
    found = plain_settings(_prediction.Settings, arguments)
    assert found is not None and {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("arguments", [[], ["--json"], ["-"], ["a", "--top", "0"], ["a", "--top"], ["a", "--help"]])
def test_typer_reads_the_others(arguments):
    assert plain_settings(_prediction.Settings, arguments) is None


def test_a_plain_call_loads_no_typer(tiny_model, photo):
    code = (
        "import sys\nfrom vertebra.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'typer', 'click', 'rich', 'difflib'}))"
    )
    call = ["predict", photo, "--model", str(tiny_model)]
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(("name", "expected"), [("a.jpg", 0), ("missing.jpg", 1)])
def test_the_process_ends_with_its_code_and_all_of_its_output(tiny_model, photo, name, expected, tmp_path):
    call = [sys.executable, "-m", "vertebra", "predict", photo.replace("a.jpg", name), "--model", str(tiny_model)]
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(call, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == expected
    lines = (tmp_path / "out").read_text().splitlines()
    assert (len(lines) > 1) if expected == 0 else ("missing.jpg" in done.stderr)
    assert "\x1b" not in (tmp_path / "out").read_text()
