"""The reference has every public name, field and option."""

import re

import pytest

import vertebra


def test_every_public_name_is_on_a_page(docs_module):
    folder = docs_module("number_role").DOCS / "reference" / "api"
    text = (folder / "vertebra.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\.\. auto(?:function|class):: (\w+)$", text, re.M))
    on_pages_of_their_own = {"models", "lab"}
    assert shown | on_pages_of_their_own | {"VertebraError", "__version__", "anatomy"} == set(vertebra.__all__)


def test_every_export_of_the_lab_is_on_its_page(docs_module):
    folder = docs_module("number_role").DOCS / "reference" / "api"
    shown = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", (folder / "lab.md").read_text(encoding="utf-8"), re.M)
    assert sorted(shown) == sorted(dir(vertebra.lab))


def test_fields_have_the_comments_of_the_source(docs_module):
    from vertebra.train import Settings

    made = docs_module("reference_directives")
    comments = made.comments_of(Settings)
    assert comments["precision"] == "Target of the threshold"
    assert comments["image_size"].startswith("Pixels; None: that of the weights")
    assert made.allowed({"range": (2, 50)}) == ", 2 to 50" and made.allowed({"allowed": ("a", "b")}) == ": a, b"


@pytest.mark.parametrize(("name", "value"), [("--top", "int"), ("--json", ""), ("--model", "str")])
def test_options_are_those_of_the_command(docs_module, name, value):
    from vertebra.cli import _app

    made = docs_module("reference_directives")
    command = _app.command().resolve_command(None, ["predict"])[1]
    rows = [made.option(parameter) for parameter in command.params]
    row = next(row for row in rows if f"`{name}`" in row[0])
    assert row[1] == value and row[3]
