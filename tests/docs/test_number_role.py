"""`{n}`: numbers from JSON, and what happens to a name that none has."""

import json

import pytest
from jinja2 import TemplateError


@pytest.fixture
def role(docs_module):
    return docs_module("number_role")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("vgg16.parameters", "138,357,544"),
        ("M(vgg16.parameters)", "138.4 M"),
        ("G(vgg16.macs)", "15.47 G"),
        ("percent(vgg16.kinds.matmul.parameters / vgg16.parameters)", "89.4 %"),
        ('vgg16.rows["classifier.0"].parameters', "102,764,544"),
        ('lab("vgg-parameters", "parameters")', "138,357,544"),
        ('lab("vgg-parameters", "share of the parameters")', "89.4 %"),
        ('digits(lab("vgg-parameters", "share of the parameters").value, 2)', "89.36"),
        ('bench("lab", "results", "vgg-parameters", "verdict")', "holds in part"),
        ('row(bench("gpu", "forward"), network="vgg16", batch=1, dtype="float32").batch', "1"),
        ('digits(device("h100").matrix.float32 / 1e12)', "494.7"),
        ("digits(resnet50.top1_of.IMAGENET1K_V1, 2)", "76.13"),
        ('digits(lab_gpu("vgg-parameters", "share of the parameters").value)', "89.4"),
        ("1 + 1", "2"),
    ],
)
def test_expressions(role, expression, text):
    assert role.evaluate(expression) == text


def test_units_are_in_the_language_of_the_build(role):
    expression = 'lab("vgg-parameters", "kept for backward")'
    assert role.evaluate(expression) == "73.4 MB an image" and role.evaluate(expression, "ja") == "73.4 MB/枚"


@pytest.mark.parametrize(
    ("expression", "near"),
    [
        ('lab("vgg-parameter", "parameters")', "vgg-parameters"),
        ('lab("vgg-parameters", "share of parameters")', "share of the parameters"),
        ('paper("nobody", "top-5 error")', "nobody.json"),
        ('bench("lab", "result")', "results"),
        ('row(bench("gpu", "forward"), network="vgg16").bound', "4 rows"),
        ('device("h10").bandwidth', "h100"),
        ("vgg61.parameters", "vgg61"),
        ("vgg16.parameter", "parameter"),
        ("1 +", "unexpected|expected"),
        ("().__class__.__mro__", "unsafe"),
        ("vgg61.parameters", "'vgg16'"),
        ("vgg16", "table.*parameters, macs"),
        ("lab", "function"),
        ("1 > 0", "bool"),
        ("none", "NoneType"),
        ("digits", "no number"),
        ("M(vgg16.macs) == 0", "bool"),
        ("vgg16.macs * 10.0 ** 300 * 10.0 ** 300", "inf"),
        ('bench("gpu", "forward", "x")', "rows here and no 'x'"),
        ('bench("gpu", "forward", 100000)', "rows here and no 100000"),
        ('bench("gpu", "forward", 0, "network", "x")', "str, no table"),
        ('bench("gpus", "forward")', "there is no bench/results/gpus.json; nearest: gpu"),
    ],
)
def test_what_is_no_number_is_told(role, expression, near):
    with pytest.raises((LookupError, TemplateError, TypeError, ValueError), match=near):
        role.evaluate(expression)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "papers/vgg.json is damaged: .*line 1"),
        ("[]", "there is no key of docs/numbers/papers/vgg.json 'figures'"),
        ('{"figures": {"top-5 error": {"value": 7.3}}}', "does not say where the paper states 'top-5 error'"),
        ('{"figures": {"top-5 error": {"where": "Table 3"}}}', "there is no key of 'top-5 error' .* 'value'"),
    ],
)
def test_a_paper_of_which_something_is_missing_is_told(role, monkeypatch, tmp_path, text, message):
    monkeypatch.setattr(role, "DOCS", tmp_path / "docs")
    path = tmp_path / "docs" / "numbers" / "papers" / "vgg.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(LookupError, match=message):
        role.paper("vgg", "top-5 error")


def test_a_damaged_result_of_the_lab_is_told(role, monkeypatch, tmp_path):
    monkeypatch.setattr(role, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(role, "RESULTS", tmp_path)
    (tmp_path / "damaged.json").write_text('{"results": {"vgg-parameters": {"number": "01"}}}')
    with pytest.raises(LookupError, match=r"damaged.json has a damaged result: .* lacks .*; run bench/lab.py"):
        role.results("damaged")


def test_counts_are_those_of_the_networks(docs_module):
    """Of two small networks; `python docs/make_numbers.py` makes all."""
    make = docs_module("make_numbers")
    kept = json.loads(make.OUT.read_text(encoding="utf-8"))["networks"]
    for name in ("googlenet", "mobilenet_v2"):
        assert json.loads(json.dumps(make.counts(name))) == kept[name]


def test_what_papers_state_has_its_place(role):
    for path in sorted((role.DOCS / "numbers" / "papers").glob("*.json")):
        stated = json.loads(path.read_text(encoding="utf-8"))
        assert stated["paper"] and stated["url"].startswith("https://")
        wrong = [
            name for name, each in stated["figures"].items() if set(each) != {"value", "where"} or not each["where"]
        ]
        assert not wrong, f"{path.name}: {wrong}: each has a value, and where the paper states it"
