"""What a result holds, shows and writes."""

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
from vertebra.errors import UsageError, VertebraError
from vertebra.lab import run
from vertebra.lab.experiment import Expected, Figure, Judgement, Measured, Verdict
from vertebra.lab.figure_text import agrees, comparison, interval, number
from vertebra.lab.registry import find_one
from vertebra.lab.result import Result
from vertebra.lab.statement import command, figure_rows, said_by
from vertebra.lab.translation import Translation

EN, JA = Translation("en"), Translation("ja")


@pytest.fixture
def result(experiments):
    experiments(alpha={"networks": True, "seeds": 3, "expected": {"size": Expected(10, "a"), "lost": Expected(2, "b")}})
    return run("alpha")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (138357544, "", "138,357,544"),
        (138357544.0, "", "138,357,544"),
        (3, "layers", "3 layers"),
        (89.3647, "%", "89.4 %"),
        (0.06780412, "%", "0.0678 %"),
        (99.96, "%", "100 %"),
        (100.0, "%", "100 %"),
        (9.996, "ms", "10.0 ms"),
        (553.4, "MB", "553 MB"),
        (1498.376, "M MACs", "1,498 M MACs"),
        (1493221.4, "", "1,490,000"),
        (2.0, "×", "2.00 ×"),
        (1.33e-15, "", "1.33e-15"),
        (0.0001234, "", "0.000123"),
        (-0.5, "", "-0.500"),
        (0.0, "%", "0 %"),
        (float("nan"), "ms", "not a number ms"),
        (float("-inf"), "", "minus infinite"),
        (None, "", "not a number"),
    ],
)
def test_numbers(value, unit, text):
    assert number(value, unit) == text


def test_intervals_and_what_agrees():
    assert interval((88.123, 90.2), "%") == "88.1 to 90.2 %" and interval(None) == ""
    assert interval((0.0, 1.0)) == "0 to 1.00"
    assert Figure(1.5, "×", 5, (1.4, 1.6)).text() == "1.50 × (95 %: 1.40 to 1.60 ×, n = 5)"
    assert Figure(7).text() == "7"
    assert agrees(89.36, 89.4, 0.001) and not agrees(89.2, 89.4, 0.001)
    assert agrees(7, 7, 0) and not agrees(7.001, 7, 0) and agrees(-2.0, -2, 0) and not agrees(float("nan"), 1, 0.1)
    assert comparison(0.31, 0.25, 0.2, (-0.7, 1.4)) == "in the interval" and comparison(0.26, 0.25, 0.2) == "agrees"
    assert comparison(-0.28, -0.5, 0.3, (-0.34, -0.23)) == comparison(0.31, 0.25, 0.2) == "differs"
    assert agrees(1e-15, 0, 1e-12) and not agrees(1e-11, 0, 1e-12) and agrees(0, 0, 0) and not agrees(1, 0, 0)


def test_it_survives_json(result):
    again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result and again.verdict is Verdict.HOLDS and again.figures["share"].interval == (0.05, 0.09)
    result.picture()
    assert "_drawn" not in result.to_dict()


def test_a_verdict_rests_on_what_was_measured(result):
    judgement = Judgement(Verdict.HOLDS, "It does.", ("weight",))
    with pytest.raises(KeyError, match="weight"):
        Result.judged(find_one("alpha"), result.claim, judgement, Measured({}))


def test_figures_beside_what_was_expected(result):
    rows = {row.name: row for row in figure_rows(result, EN)}
    assert list(rows) == ["size", "share", "lost"]
    assert (rows["size"].comparison, rows["share"].comparison, rows["lost"].comparison) == ("agrees", "", "")
    assert rows["lost"].value == "not measured" and rows["share"].n == "3" and rows["size"].n == ""


def test_nothing_is_expected_of_the_users_networks(experiments):
    from torch import nn

    experiments(alpha={"networks": True})
    found = run("alpha", models=[nn.Sequential(nn.Flatten(), nn.Linear(150528, 2))])
    assert {row.expected for row in figure_rows(found, EN)} == {""}
    assert "1 alpha" in repr(found) and command(found) == "vertebra lab run alpha --model Sequential"


@pytest.mark.parametrize(
    ("stated_by", "english", "japanese"),
    [
        ("article l.7", "the article says (l.7)", "記事の主張(l.7)"),
        ("paper", "the paper says", "論文の主張"),
        (
            "code l.447–449 (comment)",
            "the quoted code says (l.447–449, comment)",
            "引用コードの記述(l.447–449、コメント)",
        ),
        (
            "article l.909–913, 917–921; code l.794",
            "the article says (l.909–913, 917–921), the quoted code says (l.794)",
            "記事の主張(l.909–913、917–921)、引用コードの記述(l.794)",
        ),
    ],
)
def test_who_says_it(stated_by, english, japanese):
    assert said_by(stated_by, EN) == english
    assert said_by(stated_by, JA) == japanese


def test_the_command_that_repeats_it(experiments, tmp_path, tiny_photos):
    experiments(alpha={"seeds": 3, "least_data": (2, 3)})
    folder = tmp_path / "my photos"
    shutil.copytree(tiny_photos, folder)
    assert command(run("alpha")) == "vertebra lab run alpha"
    assert command(run("alpha", quick=True)) == "vertebra lab run alpha --quick"
    assert command(run("alpha", seeds=7)) == "vertebra lab run alpha --seeds 7"
    assert command(run("alpha", quick=True, seeds=2)) == "vertebra lab run alpha --quick --seeds 2"
    assert command(run("alpha", data=folder)) == f"vertebra lab run alpha --data '{folder}'"


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, ""),
        ({"quick": True}, "-quick"),
        ({"seeds": 7}, "-7-seeds"),
        ({"quick": True, "seeds": 3}, "-3-seeds-quick"),
        ({"models": ["vgg11", "resnet18"]}, "-vgg11-resnet18"),
        ({"models": ["../../x y"]}, "-x-y-e76b0dff"),
        ({"models": ["小"]}, "-6a7339bb"),
        ({"models": ["n" * 300]}, f"-{'n' * 80}-230b0774"),
        ({"data": "/photos/pets"}, "-pets"),
        ({"device": "cuda"}, "-cuda"),
    ],
)
def test_files_of_another_setting_have_another_name(result, options, added):
    changed = replace(result, claim=replace(result.claim, seeds=3))
    usual = {"seeds": 1 if options.get("quick") else 3}
    changed = replace(changed, settings=result.settings | usual | options)
    assert changed.file_name(".json", "ja") == f"01-alpha{added}.json"
    assert changed.file_name(".svg", "ja") == f"01-alpha{added}.ja.svg"


def test_one_that_was_measured_now_equals_one_that_was_kept(experiments):
    from vertebra.lab.registry import find_one

    experiments(alpha={})
    module = find_one("alpha").load()
    measure = module.measure
    module.measure = lambda setup: replace(measure(setup), series={"bars": (1, 2), "sizes": {8: [(1, 2.5)]}})
    fresh = run("alpha")
    assert fresh.measured.series == {"bars": [1, 2], "sizes": {"8": [[1, 2.5]]}}
    assert Result.from_dict(json.loads(json.dumps(fresh.to_dict()))) == fresh
    assert replace(run("alpha"), kept=False) == fresh


def test_what_is_no_result(result):
    values = result.to_dict()
    assert Result.from_dict({"schema": 1, **values}) == result
    with pytest.raises(UsageError, match="this is no result of vertebra lab: it lacks claim, date"):
        Result.from_dict({})
    with pytest.raises(UsageError, match='It has several; give one of its "results"'):
        Result.from_dict({"schema": 1, "results": [values], "not_run": []})
    with pytest.raises(UsageError, match=r"it has more\."):
        Result.from_dict({**values, "more": 1})


def test_a_language_that_there_is_not(result, tmp_path):
    with pytest.raises(UsageError, match="language is 'fr'; it must be en or ja"):
        result.save(tmp_path, "fr")
    assert not list(tmp_path.glob("01-*"))


def test_how_python_and_notebooks_show_it(result):
    assert repr(result).splitlines()[0].startswith("1 alpha: holds (")
    assert "  size: 10" in repr(result) and "  share: 0.0678 % (95 %: 0.0500 to 0.0900 %, n = 3)" in repr(result)
    html = result._repr_html_()
    assert "<b>holds</b>: It was counted." in html and 'role="img"' in html
    ElementTree.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>")


def test_its_files(result, tmp_path):
    paths = result.save(tmp_path / "new" / "folder", "ja")
    assert [path.name for path in paths] == ["01-alpha.json", "01-alpha.ja.svg", "01-alpha.png"]
    assert json.loads(paths[0].read_text())["verdict"] == "holds"
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").touch()
    with pytest.raises(VertebraError, match="cannot be written"):
        result.save(tmp_path / "file")
