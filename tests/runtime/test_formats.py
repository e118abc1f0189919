"""What a row says: names that are any bytes, cells that a spreadsheet may run."""

import csv
import io
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vertebra.runtime.formats import Csv, JsonLines, path_of_text, text_of_path, to_row
from vertebra.runtime.photo import Photo
from vertebra.runtime.predictor import Prediction
from vertebra.runtime.result_file import ResultFile

SUFFIXES = (".csv", ".jsonl", ".parquet")

# As the system has them.
NAMES = [
    *(
        b"a.jpg",
        b"caf\xe9.jpg",
        b"caf\\xe9.jpg",
        b"caf\\x5cxe9.jpg",
        b"\\\xe9",
        b"\\x5\xe9",
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ),
    *(
        b"c\rr.jpg",
        b"l\nf.jpg",
        b"c\r\nrlf.jpg",
        b"\r",
        b"\n",
        b"\t.jpg",
        b"a\tb",
        b"\x0b\x0c\x1c.jpg",
        b"\x1b[31m",
        b"\x7f",
    ),
    *(b'"', b'q"uo"te.jpg', b"com,ma.jpg", b'","', b"'", b"'=1+1", b"semi;colon", b" blanks ", b"back\\slash"),
    *(b"=cmd|' !A0", b"+1.jpg", b"-1", b"@SUM(1)", b" =1", b"%00", b"#"),
    *(
        text.encode()
        for text in ("＝1", "＋1", "－1", "＠a", "﹦1", "📷.jpg", "\u2028ls", "\x85", "\ufeffbom", "é", "e\u0301")
    ),
]
PATHS = [os.fsdecode(name) for name in NAMES]

names = st.one_of(
    st.binary(min_size=1),
    st.text(alphabet=st.sampled_from("=+-@\"'\\x5ce90\r\n\t,./ a＝é\0")).map(os.fsencode),
)


def good(path, name="cat"):
    return Prediction(path, [{"class": name, "index": 0, "probability": 0.5}])


@settings(deadline=None, max_examples=60)
@given(names)
@example(b"\\x5cxe9")
@example(b"\\\xe9\\x\xff")
def test_every_path_has_a_text_of_its_own(name):
    path = os.fsdecode(name)
    text = text_of_path(path)
    text.encode("utf-8")
    assert "\0" not in text
    assert path_of_text(text) == path


@pytest.mark.parametrize("path", ["a.jpg", "b\\c.jpg", "é.jpg", "C:\\photos\\1.jpg", "📷/'x'.jpg", "\x1b", "a\\x41"])
def test_ordinary_names_are_left_as_they_are(path):
    assert text_of_path(path) == path


def test_what_no_system_calls_a_file_is_text_too():
    assert text_of_path("a\0b") == "a\\x00b"
    text_of_path("\ud800").encode("utf-8")
    assert path_of_text("\ud800") == "\ud800"


@settings(deadline=None, max_examples=60)
@given(names)
def test_a_row_of_a_table_is_one_row_to_all_readers(name):
    path = os.fsdecode(name)
    table = Csv(1, embed=False, unsure=False)
    line = table.line(good(path))
    ((text, *rest),) = csv.reader(io.StringIO(line.decode("utf-8"), newline=""))
    assert rest == ["cat", "0.5", ""]
    assert os.path.normpath(path_of_text(text)) == os.path.normpath(path)
    assert text[:1] not in tuple("=+-@\t\r\n＝＋－＠")
    assert table.read(line) == (path, False) or path.startswith("./")
    assert list(table.records(io.BytesIO(line * 2))) == [line, line]


@settings(deadline=None, max_examples=60)
@given(names)
def test_a_line_of_json_is_ascii(name):
    path = os.fsdecode(name)
    lines = JsonLines(1, embed=False, unsure=False)
    line = lines.line(good(path))
    assert line.isascii() and line.count(b"\n") == 1
    json.loads(line)["path"].encode("utf-8")
    assert lines.read(line) == (path, False)


def read_by_others(path):
    """The texts of the paths in a file, by each of the readers that people use."""
    pandas = pytest.importorskip("pandas")
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            yield [row["path"] for row in csv.DictReader(file)]
        yield pandas.read_csv(path, keep_default_na=False)["path"].tolist()
        yield pandas.read_csv(path, keep_default_na=False, engine="python")["path"].tolist()
    elif path.suffix == ".jsonl":
        yield pandas.read_json(path, lines=True)["path"].tolist()
    else:
        yield pytest.importorskip("pyarrow.parquet").read_table(path)["path"].to_pylist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_names_are_read_by_others_and_resumed(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    options = {"model": "tiny.onnx", "sha256": "ab" * 32, "top": 1, "embed": False, "resume": True}
    half = len(PATHS) // 2
    for part in (PATHS[:half], PATHS):
        with ResultFile(path, **options) as output:
            for photo in list(output.remaining([Photo(each) for each in part])):
                output.write(Prediction(photo.path, error=f"{photo.path}: no such file"))
    for texts in read_by_others(path):
        assert [os.path.normpath(path_of_text(text)) for text in texts] == PATHS
    # All are tried again, each in its own place, and then none is.
    for expected in (PATHS, []):
        with ResultFile(path, **options) as output:
            again = [photo.path for photo in output.remaining([Photo(each) for each in PATHS])]
            assert again == expected
            for each in again:
                output.write(good(each))
        assert (output.total, output.failed, output.absent) == (len(PATHS), 0, 0)
    for texts in read_by_others(path):
        assert [os.path.normpath(path_of_text(text)) for text in texts] == PATHS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_of_earlier_versions_are_resumed(tmp_path, suffix):
    """They had the bytes of a name as they were."""
    path = tmp_path / f"out{suffix}"
    options = {"model": "tiny.onnx", "sha256": "ab" * 32, "top": 1, "embed": False, "resume": True}
    with ResultFile(path, **options) as output:
        output.write(good("caf\udce9.jpg"))
    earlier = b"caf\xe9.jpg" if suffix == ".csv" else b"caf\\udce9.jpg"
    path.write_bytes(path.read_bytes().replace(b"caf\\xe9.jpg" if suffix == ".csv" else b"caf\\\\xe9.jpg", earlier))
    assert earlier in path.read_bytes()
    with ResultFile(path, **options) as output:
        assert list(output.remaining([Photo("caf\udce9.jpg")])) == []


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("cat", "cat"),
        ("=1+1", "'=1+1"),
        ("'=1+1", "''=1+1"),
        ("+ size", "'+ size"),
        ("\tcat", "'\tcat"),
        ("\rcat", "'\rcat"),
        (" @cat", "' @cat"),
        ("＝cat", "'＝cat"),
        ("-1", "-1"),  # numbers are labels too, and do nothing
        ("+0.5", "+0.5"),
        ("-1 cat", "'-1 cat"),
        ("'cat", "'cat"),
        ("t-shirt", "t-shirt"),
        ("c\0at", "c\\x00at"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("", ""),
    ],
)
def test_classes_and_errors_that_are_no_formulas(text, cell):
    table = Csv(1, embed=False, unsure=False)
    read = [
        next(csv.reader(io.StringIO(table.line(result).decode("utf-8"), newline="")))
        for result in (good("a.jpg", text), Prediction("a.jpg", error=text))
    ]
    assert read == [["a.jpg", cell, "0.5", ""], ["a.jpg", "", "", cell]]
    assert table.read(table.line(Prediction("a.jpg", error=text))) == ("a.jpg", text != "")


def test_a_row_for_json_leaves_the_result_alone():
    result = Prediction("caf\udce9", good("", "\udce9").predictions, unsure=True)
    row = to_row(result)
    assert row == {"path": "caf\\xe9", "predictions": good("", "\\xe9").predictions, "error": None, "unsure": True}
    assert result.path == "caf\udce9" and result.predictions[0]["class"] == "\udce9"
    assert to_row(Prediction("a", error="a: gone"))["error"] == "a: gone"


@pytest.mark.parametrize(
    "line", [b"a,b\n", b"a\rb,cat,0.5,\n", b"\n", b'"a,cat,0.5,\n', b"a,cat,0.5,,\n", b"a,cat,0.5\n"]
)
def test_other_rows_of_a_table(line):
    assert Csv(1, embed=False, unsure=False).read(line) is None


@pytest.mark.parametrize(
    "line",
    [
        b"{\n",
        b"[]\n",
        b"1\n",
        b'{"path": 1, "predictions": [], "error": null}\n',
        b'{"path": "a", "predictions": [1, 2], "error": null}\n',
        b'{"path": "a", "predictions": []}\n',
        b'{"path": "a", "predictions": [], "error": null, "embedding": [1]}\n',
    ],
)
def test_other_lines_of_json(line):
    assert JsonLines(1, embed=False, unsure=False).read(line) is None
