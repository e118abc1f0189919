"""Every fixed text of the lab has a translation. `python tests/lab/test_japanese.py FOLDER…` lists what lacks one.

Figure names and the texts of pictures come from results: the committed ones, or those of the folders given.
"""

import ast
import itertools
import json
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from japanese_terms import faults

pytest.importorskip("torch")
pytest.importorskip("sklearn")
from vertebra.lab.experiment import Figure, Kind, Verdict
from vertebra.lab.registry import entries
from vertebra.lab.result import Result
from vertebra.lab.statement import figure_text
from vertebra.lab.translation import Translation

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "lab.json"
JA = Translation("ja")
OWN = ("src/vertebra/lab/page.py", "src/vertebra/lab/terminal_text.py", "src/vertebra/lab/statement.py")
TEMPLATES = ("lab.html", "base.html")
SHARED = ("each_network.py", "kept_by_stage.py")  # judgements that several experiments share


def texts_of_the_frame():
    """Headings and labels of the terminal and the page."""
    for name in (*OWN, *(f"src/vertebra/report/templates/{name}" for name in TEMPLATES), "src/vertebra/cli/lab.py"):
        source = (ROOT / name).read_text(encoding="utf-8")
        yield from (match[2] for match in re.finditer(r"\bt\((['\"])((?:(?!\1).)+)\1", source))
    yield from (*Verdict, *Kind, "#", "name", "family", "decided by", "claim", "verdict", "what decided", "agrees")
    yield from ("differs", "not run", "failed", "the article says", "the paper says", "the quoted code says")
    yield from ("in the interval", "cpu", "threads", "gpu", "all", "it trains or times", "3 experiments")
    for name in SHARED:
        yield from reasons(ROOT / "src/vertebra/lab" / name)


def texts_of_claims(entry):
    claim = entry.load().CLAIM
    yield from (claim.title, claim.caption, claim.should_hold, claim.rule, claim.source, claim.family)
    yield from (claim.networks_title, claim.networks_caption)
    for name, expected in claim.expected.items():
        yield from (name, expected.source)


def reasons(path):
    """The sentences of a module that are no docstrings, also those put together from parts: reasons of its verdicts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CLAIM":
            skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            skipped |= {id(inner) for inner in ast.walk(node)}
        elif isinstance(node, ast.JoinedStr):  # as a whole
            skipped |= {id(inner) for inner in ast.walk(node) if inner is not node}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = {}
        for node in sorted(ast.walk(function), key=lambda node: getattr(node, "lineno", 0)):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Assign):
                note(node.targets[0], node.value, names)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                longer = {start + end for start in strings(node.target, names) for end in strings(node.value, names)}
                names.setdefault(node.target.id, set()).update(longer)
        found = set().union(*names.values())
        found |= {text for node in ast.walk(function) if id(node) not in skipped for text in strings(node, names)}
        for text in map(str.strip, found):
            if re.fullmatch(r"[A-Z0-9].* .*\.", text) and not re.search(r"\.[,;]", text):  # which no branch makes
                yield text


def note(target, value, names):
    """What an assignment may make of names; those that are no texts are left out."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for each, own in zip(target.elts, value.elts, strict=True):
            note(each, own, names)
    elif isinstance(target, ast.Name):
        names.setdefault(target.id, set()).update(strings(value, names))


def strings(node, names):
    """All texts that an expression may be."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.Name):
        return names.get(node.id, set())
    if isinstance(node, ast.FormattedValue):
        return strings(node.value, names)
    if isinstance(node, ast.IfExp):
        return strings(node.body, names) | strings(node.orelse, names)
    if isinstance(node, ast.JoinedStr):
        return {"".join(parts) for parts in itertools.product(*(strings(value, names) for value in node.values))}
    return set()


def texts_of(result, *, picture=False):
    """Names of figures, units and reason; with `picture` also what is not Japanese in its picture."""
    yield result.reason
    for name, figure in result.figures.items():
        yield from (name, figure.unit)
    if picture:
        nodes = ElementTree.fromstring(result.picture("svg", "ja")).iter("{http://www.w3.org/2000/svg}text")
        found = ["".join(node.itertext()).strip() for node in nodes]
        yield from (text for text in found if not re.search("[ぁ-んァ-ヶ一-龠]", text))


def lacking(texts):
    return sorted({text for text in texts if JA.lacks(text)})


def committed():
    if not RESULTS.is_file():
        pytest.skip("no results are committed yet")
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    results = document["results"]
    return [Result.from_dict(values) for values in (results.values() if isinstance(results, dict) else results)]


def test_the_frame():
    assert lacking(texts_of_the_frame()) == []


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_claims_rules_captions_and_reasons(entry):
    assert lacking([*texts_of_claims(entry), *reasons(entry.path)]) == []


def test_figures_of_the_committed_results():
    assert lacking(text for result in committed() for text in texts_of(result)) == []


@pytest.mark.slow
def test_pictures_of_the_committed_results():
    assert lacking(text for result in committed() for text in texts_of(result, picture=True)) == []


@pytest.mark.parametrize(
    ("text", "japanese"),
    [
        ("parameters", "パラメーター数"),
        ("ResNet-50: parameters", "ResNet-50: パラメーター数"),
        ("net (2): parameters", "net (2): パラメーター数"),
        ("parameters: 138 M", "パラメーター数: 138 M"),
        ("at 224 × 224", "224 × 224のとき"),
        ("quite another text", "quite another text"),
        ("138 M", "138 M"),
        ("parameters. Weights.", "パラメーター数。重み。"),
    ],
)
def test_how_a_text_is_found(monkeypatch, text, japanese):
    texts = {
        "parameters": "パラメーター数",
        "at {} × {}": "{} × {}のとき",
        "parameters.": "パラメーター数。",
        "Weights.": "重み。",
    }
    monkeypatch.setattr(JA, "_texts", texts)
    assert JA(text) == japanese


def test_numbers_and_names_of_networks_need_no_translation():
    for text in ("138,357,544", "1.5e-3 %", "VGG-16", "densenet121", "EfficientNet-B0", "V2-S", "−0.5", "4a", ""):
        assert not JA.lacks(text)
    assert JA.lacks("the weights of VGG-16")


def test_a_translation_has_as_many_places_as_its_text():
    for english, japanese in JA._texts.items():
        given, places = len(re.findall(r"\{\d?\}", english)), re.findall(r"\{(\d*)\}", japanese)
        assert len(places) == given or given == 0, english
        assert all(not place or int(place) < given for place in places), english


def test_translations_have_the_words_of_the_field():
    assert [fault for text in JA._texts.values() for fault in faults(text)] == []


def test_measured_numbers_and_their_units():
    figure = Figure(math.nan, "MB an image", 3, (1.5, math.inf))
    assert figure_text(figure, JA) == "非数 MB/枚 (95 %: 1.50〜無限大 MB/枚, n = 3)"
    assert figure_text(figure, Translation("en")) == figure.text()


if __name__ == "__main__":
    found = [*texts_of_the_frame(), *(t for e in entries() for t in (*texts_of_claims(e), *reasons(e.path)))]
    for folder in sys.argv[1:]:
        for path in sorted(Path(folder).glob("*-*.json")):
            found += texts_of(Result.from_dict(json.loads(path.read_text(encoding="utf-8"))), picture=True)
    sys.stdout.write("\n".join([*lacking(found), ""]))
