"""What tables say: columns, labels, splits and paths. Photos are empty files here: nothing is decoded."""

import csv
import io
import re
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertebra.data import DataError, open_dataset
from vertebra.errors import UsageError, VertebraError

NAMES = "train/training, val/valid/validation/dev/eval/evaluation, test/testing/tests"
UTF8 = "Save the table as CSV in UTF-8, in Excel the type “CSV UTF-8”."
PATHS = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


@pytest.fixture
def place(tmp_path):
    """A folder with the photos of `PATHS`."""
    for path in (*PATHS, "cat/2.png", "dog/2.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


@pytest.fixture
def read(place):
    """Read a text as a table: `read("path,label\\n…")`."""

    def read(text, name="list.csv", **options):
        (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_dataset(place / name, **options)

    return read


@pytest.fixture
def refusal(read, place):
    """The message that a text is refused with, without where the table lies."""

    def refusal(text, name="list.csv", kind=DataError, **options):
        with pytest.raises(kind) as caught:
            read(text, name, **options)
        return str(caught.value).replace(str(place / name), "TABLE").replace(str(place), "FOLDER")

    return refusal


@pytest.fixture
def parquet(place):
    """Read columns as a Parquet table."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def read(options=None, **columns):
        parquet.write_table(pyarrow.table({"path": PATHS} | columns), place / "list.parquet")
        return open_dataset(place / "list.parquet", **(options or {}))

    return read


def rows(*labels, header="path,label", values=None):
    """A row of each of `PATHS`; of two labels each stands for two."""
    labels = [label for label in labels for _ in range(4 // len(labels))]
    lines = [f"{path},{label}" for path, label in zip(PATHS, labels, strict=True)]
    if values is not None:
        lines = [f"{line},{value}" for line, value in zip(lines, values, strict=True)]
    return "\n".join([header, *lines, ""])


def labels(dataset):
    return [photo.label for photo in dataset.photos]


def splits(dataset):
    return [photo.split for photo in dataset.photos]


# --- rows and quotes ------------------------------------------------------------------------------------------------


def test_a_comma_in_a_label_needs_quotes(read, refusal):
    assert refusal(rows("black, white", "dog")) == (
        "TABLE, line 2: it has 3 fields, and the first line names 2 columns. Put a value that contains commas in "
        'quotes: "black, white".'
    )
    assert labels(read(rows('"black, white"', '"a ""b"""'))) == ["black, white"] * 2 + ['a "b"'] * 2
    assert labels(read(rows(' "cat" ', " dog"))) == ["cat", "cat", "dog", "dog"]
    assert "line 3: it has 1 fields, and the first line names 2 columns" in refusal("path,label\ncat/0.png,a\nx\n")
    assert "it has 4 fields" in refusal("path,label\ncat/0.png,a,,x\n")


def test_separators_at_the_ends_of_lines(read, refusal):
    found = read("path;label\n" + "".join(f"{path};{path[:3]};\n" for path in PATHS) + ";;;\n")
    assert labels(found) == ["cat", "cat", "dog", "dog"]
    assert found.notes == (
        "The fields of list.csv are separated by semicolons.",
        "Rows in which all fields are empty, and left out: 1, first in line 6.",
        "Rows that end in more separators than the first line, with nothing behind them: 4, first in line 2.",
    )
    found = read("path,label,,\n" + "".join(f"{path},{path[:3]}\n" for path in PATHS))
    assert found.notes == (
        "Rows without the fields of the last columns, which have no name: 4, first in line 2.",
        "Not read: the columns without a name.",
    )
    assert "it has 2 fields, and the first line names 3 columns" in refusal("path,label,note\ncat/0.png,a\n")
    assert refusal("My animals\npath,label\ncat/0.png,a\n").endswith(
        "it has 2 fields, and the first line names 1 columns. Leave out what stands above the line that names the "
        "columns."
    )


def test_two_byte_order_marks(read):
    assert read("\ufeff\ufeffpath,label\ncat/0.png,a\ndog/0.png,b\n").notes == ()


def test_a_separator_that_is_said_and_wrong(refusal):
    assert refusal("sep=;\npath,label\ncat/0.png,a\n") == (
        "TABLE, line 1: semicolons separate the fields, it says, and in line 2 commas do. Write sep=,, or leave that "
        "line out."
    )


def test_a_column_of_photos_is_proposed(refusal):
    assert refusal("Bildname;Art\ncat/0.png;a\ndog/0.png;b\n") == (
        "TABLE has no column 'path' (it has Bildname, Art). The column 'Bildname' has names of photos: give "
        "--path-column Bildname, and --label-column NAME for that of the labels."
    )
    assert refusal("cell;class\ncat/0.png;a\ndog/0.png;b\n").endswith("give --path-column cell.")
    assert refusal("cat/0.png 0\ndog/0.png 1\n", "list.txt") == (
        "TABLE has no column 'path': its first line has a photo, cat/0.png. Put the names of the columns above it: "
        "path,label or path,label,split."
    )


@pytest.mark.parametrize("one", ["1", "1.0"])
def test_a_column_for_each_class_is_not_read(refusal, one):
    zero = one.replace("1", "0", 1)
    assert refusal(f"filename, cat, dog\ncat/0.png, {one}, {zero}\ndog/0.png, {zero}, {one}\n") == (
        "TABLE has no column 'label', but 2 of zeros and ones ('cat', 'dog'), as where each class has one. Add a "
        "column 'label' with the name of each photo's class, in pandas: table['label'] = "
        "table.iloc[:, 1:3].idxmax(axis=1)."
    )
    assert refusal(f"filename,cat,dog\ncat/0.png,{one},{one}\ndog/0.png,{zero},{one}\n").endswith(
        "In line 2 not exactly one of them is 1, but a photo has one class here: add a column 'label' that says which."
    )
    assert "--label-column NAME" in refusal("filename,kind,old,new\ncat/0.png,a,1,0\ndog/0.png,b,0,1\n")


def test_numbers_with_decimals_are_told(read):
    for values in (("0.5", "2.5"), ("-1.25", "1.0")):
        assert any("each taken for the name of a class: 2, such as" in note for note in read(rows(*values)).notes)
    assert any("each taken for the name of a class: 2" in note for note in read(rows('"0,5"', '"2,5"')).notes)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ('"cat', "a quote is not closed on its line"),
        ('c"at', "a quote is not closed on its line"),
        ('cat"', "a quote is not closed on its line"),
        ('"cat" x', "a quote stands within a field"),
        ('5" and 6"', "a quote stands within a field"),
    ],
)
def test_a_stray_quote_is_refused_where_it_stands(refusal, label, reason):
    # The second quote, far below, would close the first and swallow the rows between.
    text = rows("a", "b") + f'cat/2.png,{label}\ndog/2.png",b\n'
    assert refusal(text) == (
        f'TABLE, line 6: {reason}. Put the whole field in quotes and double those in it: "5"" disk".'
    )


_CAPTIONS = "path,label,caption\ncat/0.png,a,{}\ncat/1.png,a,x\ndog/0.png,b,{}\ndog/1.png,b,z\n"


@pytest.mark.parametrize(
    "caption", ['"one,\ntwo, three"', '"\r\n"', '"it is ""so""\n\n, or not"', '"one,\ntwo, three,\n see 1.png"']
)
def test_a_value_that_is_not_read_may_have_several_lines(read, caption):
    found = read(_CAPTIONS.format(caption, "y"))
    assert labels(found) == ["a", "a", "b", "b"]
    assert (
        found.notes
        == (
            "Not read: the column 'caption'.",
            "Rows with a value of several lines: 1, first in line 2.",
        )[::-1]
    )
    found = read(f'caption,path,label\n{caption},cat/0.png,a\nx,dog/0.png,b\n"x\ny",cat/1.png,b\n')
    assert labels(found) == ["a", "b", "b"]
    assert found.notes[0] == "Rows with a value of several lines: 2, first in line 2."
    assert len(read(f'path,caption,label\ncat/0.png,{caption},a\ndog/0.png,"x\ny",b\n').photos) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"x', 'y"'),  # rows between look like rows
        ('"x', '"y'),
        ('"x', "y"),
        ('"', '"'),
        ('"a, b', 'd, e"'),
    ],
)
def test_a_quote_that_would_swallow_rows_is_refused(refusal, first, second):
    text = _CAPTIONS.format(first, second)
    reason = "line 2: a quote is not closed on its line"
    assert reason in refusal(text)
    assert reason in refusal(text.replace("cat/1.png,a,x\n", ""))  # the next row
    turned = "\n".join(",".join(line.split(",", 2)[::-1]) for line in text.splitlines())  # the caption comes first
    assert "line 2: a quote" in refusal(turned)


def test_quotes_over_lines_where_paths_have_no_suffix(refusal, place):
    for name in ("cat", "dog"):
        (place / name / "0").touch()
    text = 'path,label,caption\ncat/0,a,"x\ndog/0,b,y"\n'
    assert "line 2: a quote is not closed on its line" in refusal(text)
    assert "one class only" in refusal(text.replace("dog/0,b,", ""))


def test_labels_and_paths_of_several_lines_are_refused(refusal):
    assert refusal('path,label,split\ncat/0.png,"a\nb",train\n') == (
        "TABLE, line 2: the label is 'a\\nb', which has several lines. Close its quotes, or write it on one line."
    )
    assert refusal('path,label,split\n"cat/\n0.png",a,train\n') == (
        "TABLE, line 2: the path 'cat/\\n0.png' has several lines. Close its quotes, or write it on one line."
    )
    assert refusal('path,label,split\ncat/0.png,a,"tr\nain"\n') == (
        "TABLE, line 2: the split is 'tr\\nain'; it must be train, val, test or empty. Did you mean 'train' "
        "or 'training'?"
    )


def test_rows_without_any_value_are_left_out(read):
    found = read(rows("a", "b") + ' , \n"",""\n,')
    assert len(found.photos) == 4
    assert found.notes == ("Rows in which all fields are empty, and left out: 3, first in line 6.",)


def test_comments_are_refused(refusal):
    hint = " A line that begins with # is no comment here: leave it out."
    assert refusal("# of today\n" + rows("a", "b")).endswith(hint)
    assert refusal(rows("a", "b") + "# the end\n").endswith(hint)


def test_lines_end_as_they_do_anywhere_and_empty_ones_count(read, refusal):
    assert len(read(rows("a", "b").replace("\n", "\r\n")).photos) == 4
    assert len(read(rows("a", "b").replace("\n", "\r")).photos) == 4
    assert len(read("\ufeff\n\n" + rows("a", "b\u2028c") + "  \n").photos) == 4
    assert refusal("\n\n" + rows("a", "b") + "\ncat/2.png,\n").startswith("TABLE, line 9: the label is empty")


@pytest.mark.parametrize(
    ("mark", "name", "what"),
    [
        (";", "list.csv", "semicolons"),
        ("\t", "list.csv", "tabs"),
        ("|", "list.csv", "vertical bars"),
        (",", "list.tsv", "commas"),
    ],
)
def test_another_separator_is_told(read, refusal, mark, name, what):
    found = read(rows("a", "b").replace(",", mark), name)
    assert found.notes == (f"The fields of {name} are separated by {what}.",)
    assert labels(found) == ["a", "a", "b", "b"]
    assert f"a value that contains {what} in quotes" in refusal(rows("a;,|\tb", "b").replace(",", mark), name)


def test_excel_names_its_separator(read, refusal):
    found = read("sep=;\n" + rows("a", "b", "c, d", "e").replace(",", ";").replace("c;", "c,"))
    assert found.notes == ()
    assert labels(found) == ["a", "b", "c, d", "e"]
    assert refusal("sep=/\npath/label\na/b/c\n").endswith("""contains '/' in quotes: "black/ white".""")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (rows("a", "b").encode("utf-32"), "it is in UTF-32"),
        (rows("a", "b").encode("utf-16-le"), "it holds NUL bytes"),
        (b"PK\x03\x04", "it is an Excel workbook or a ZIP archive"),
        (b"\xd0\xcf\x11\xe0", "it is an old Excel workbook"),
        (b"\x1f\x8b\x08", "it is compressed by gzip"),
        (b"PAR1", "it is a Parquet table, whose name must end in .parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer; git lfs pull brings the file"),
    ],
)
def test_what_is_no_text_is_said(refusal, content, what):
    assert refusal(content) == f"TABLE is no table of text in UTF-8: {what}. {UTF8}"


def test_latin_1_is_refused_where_it_stands(read, refusal, place):
    assert refusal(rows("caf\u00e9", "dog").encode("latin-1")) == (
        f"TABLE, line 2: the label 'café' (read as Latin-1) is no text in UTF-8. {UTF8}"
    )
    assert refusal("path,label,caf\u00e9\n".encode("latin-1")) == (
        f"TABLE is no table of text in UTF-8: line 1 has other bytes, as Latin-1 has them. {UTF8}"
    )
    assert "line 2: the split 'tr\\xe4in'" not in refusal(
        rows("a", header="path,label,split", values=["tr\u00e4in"] * 4)
    )
    bytes_of_split = rows("a", header="path,label,split", values=["tr\u00e4in"] * 4).encode("latin-1")
    assert (
        "line 2: the split 'träin' (read as Latin-1) is no text in UTF-8. Save the table as CSV in UTF-8, in Excel"
        in refusal(bytes_of_split)
    )
    missing = rows("a", "b").encode() + b"caf\xe9.png,a\n"
    assert "line 6: the path 'café.png' (read as Latin-1) is not there, and no text in UTF-8." in refusal(missing)
    (place / "caf\udce9.png").touch()
    assert len(read(missing).photos) == 5  # the names of files may be any bytes


def test_tables_that_were_joined(refusal):
    assert refusal(rows("a", "b") + rows("c", "d")) == (
        "TABLE, line 6: the names of the columns stand here again, as where files were joined. Leave out this line."
    )


def test_a_table_without_rows(refusal):
    assert refusal("path,label\n") == "TABLE lists no photos: no row is left below the names of the columns."
    assert refusal("\n\n") == (
        "TABLE has no column 'path' (it has none). The first line names the columns: path,label or path,label,split."
    )
    assert refusal(rows("a", "b"), ignore=["a", "b"]).startswith("TABLE lists no photos")


# --- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["path,label", "Path, LABEL ", '"path","label"', " path,Label"])
def test_the_documented_columns(read, header):
    assert read(rows("a", "b", header=header)).notes == ()


@pytest.mark.parametrize(
    ("header", "path", "label"),
    [
        ("filename,class", "filename", "class"),
        ("Image Path,category", "Image Path", "category"),
        ("file_name,Class-Name", "file_name", "Class-Name"),
        ("image,target", "image", "target"),
        ("File.Name,Class.Label", "File.Name", "Class.Label"),
        ("#filename,Class?", "#filename", "Class?"),
    ],
)
def test_other_names_of_columns_are_told(read, header, path, label):
    found = read(rows("a", "b", header=header))
    assert found.notes == (
        f"The path is read from the column {path!r}.",
        f"The label is read from the column {label!r}.",
    )
    assert labels(found) == ["a", "a", "b", "b"]


def test_columns_that_may_be_meant_are_refused(read, refusal):
    text = rows("a", "b", header="file,image,label").replace(",a", ",x,a").replace(",b", ",x,b")
    assert refusal(text) == (
        "TABLE has 2 columns that may be the path: 'file' and 'image', which begin with 'cat/0.png' and 'x'. Say "
        "which: --path-column file or --path-column image."
    )
    assert read(text, ignore=["image"]).notes == (
        "Columns ignored, as asked: 'image'.",
        "The path is read from the column 'file'.",
    )
    assert refusal("path,label,Label\na,b,c\n") == (
        "TABLE has 2 columns that may be the label: 'label' and 'Label', which begin with 'b' and 'c'. Say which: "
        "--label-column label or --label-column Label."
    )
    assert refusal("path,label,label\na,b,c\n").endswith("begin with 'b' and 'c'. Give them different names.")
    assert refusal("path,lable\n").startswith("TABLE has no column 'label' (it has path, lable). Did you mean 'lable'?")
    text = rows("a", "b", header="path,label,class,image,", values=["x,y,z"] * 4)
    assert "2 columns that may be the path: 'path' and 'image'" in refusal(text)
    assert read(text, path_column="path", label_column="label").notes == (
        "Not read: the columns 'class', 'image' and without a name.",
    )


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nan", "NaN", " NAN ", "<NA>", "NaT", "#N/A", "#REF!", "#DIV/0!", "#NAME?"])
def test_a_missing_label_is_no_class(read, refusal, name):
    assert refusal(rows("a", "b", "c", name)) == (
        f"TABLE, line 5: the label is {name!r}, as programs write a missing one. Give a label, or leave such rows out "
        f"with --ignore {name.strip()}. A class of that name needs another one."
    )
    found = read(rows("a", "b", "c", name), ignore=[name])
    assert labels(found) == ["a", "b", "c"]
    assert found.notes == (f"Rows ignored, as asked: {name!r} (1).",)


@pytest.mark.parametrize("name", ["None", "null", "NA", "n/a", "none", "-", "?"])
def test_a_class_whose_name_may_mean_none_is_told(read, name):
    assert read(rows("a", name)).notes == (
        f"{name!r} is taken for the name of a class; if it stands for a missing label, leave it out with --ignore "
        f"{chr(34) + name + chr(34) if name == '?' else name}.",
    )


def test_labels_that_name_splits_are_told(read):
    assert read(rows("train", "Test")).notes == (
        "The labels 'Test' and 'train' are taken for classes, although they name splits.",
    )
    assert read(rows("train", "car")).notes == ()
    assert read(rows("valid", "val")).notes == ()


def test_empty_values_are_refused(refusal):
    assert refusal(rows("a", "b", "", "c")) == "TABLE, line 4: the label is empty. Give one, or delete the row."
    assert refusal(rows("a", "b", "c", " ")) == "TABLE, line 5: the label is empty. Give one, or delete the row."
    assert refusal("path,label\n ,a\n") == "TABLE, line 2: the path is empty. Give one, or delete the row."


def test_labels_that_are_one_are_joined_and_others_refused(read, refusal):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    found = read(rows(nfc, nfd, f"{nfc} ", "dog"))
    assert labels(found) == ["café", "café", "café", "dog"]
    assert found.notes == (
        "Joined, as they differ only in Unicode form or outer white space: 'caf\\xe9' (line 2), 'cafe\\u0301' (line "
        "3), 'caf\\xe9 ' (line 4) → 'café'.",
    )
    assert refusal(rows("x", "Cat", "cat", "y")) == (
        "TABLE: the classes 'Cat' (line 3) and 'cat' (line 4) differ in case only, so they may be one class or two. "
        "Rename one of them, or leave one out with --ignore Cat."
    )
    assert labels(read(rows("x", "Cat", "cat", "y"), ignore=["cat"])) == ["x", "Cat", "y"]
    assert "'1' (line 2) and '1.0' (line 3) differ in how the same number is written" in refusal(
        rows("1", "1.0", "2", "3")
    )


def test_whole_numbers_with_a_decimal_point(read):
    found = read(rows("1.0", "22.000"))
    assert labels(found) == ["1", "1", "22", "22"]
    assert found.notes == ("The labels are numbers with a decimal point, and read as whole ones, such as '1'.",)
    assert labels(read(rows("1.0", "2.5"))) == ["1.0", "1.0", "2.5", "2.5"]  # versions, perhaps
    assert labels(read(rows("9007199254740993.0", "9007199254740992.0")))[::2] == [
        "9007199254740993",
        "9007199254740992",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 1, 1], ["0", "0", "1", "1"]),
        ([False, False, True, True], ["False", "False", "True", "True"]),
        ([b"a", b" a", b"caf\xc3\xa9", b"b"], ["a", "a", "café", "b"]),
        (["a", "a", "b ", "b"], ["a", "a", "b", "b"]),
    ],
)
def test_labels_of_any_type(parquet, values, expected):
    found = parquet(label=values)
    assert labels(found) == expected
    assert not any("decimal" in note for note in found.notes)


def test_labels_of_floats_categories_and_decimals(parquet):
    pyarrow = pytest.importorskip("pyarrow")
    for values in ([1.0, 1.0, -2.0, -2.0], [Decimal("1.0"), Decimal("1.0"), Decimal("-2.0"), Decimal("-2.0")]):
        found = parquet(label=values)
        assert labels(found) == ["1", "1", "-2", "-2"]
        assert found.notes == ("The labels are numbers with a decimal point, and read as whole ones, such as '1'.",)
    assert labels(parquet(label=pyarrow.array(["a", "b", "a", "b"]).dictionary_encode())) == ["a", "b", "a", "b"]
    assert labels(parquet(label=pyarrow.array(["a", "b", "a", "b"], pyarrow.large_string()))) == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 1.0, float("nan"), 2.0], "row 3: the label is empty."),
        (["a", None, "b", "b"], "row 2: the label is empty."),
        ([None, None, None, None], "row 1: the label is empty."),
        ([0, 1, None, 1], "row 3: the label is empty."),
        ([1.0, 1.5, 2.0, 2.0], "row 2: the label is 1.5; it must be a name or a whole number."),
        ([1.0, float("inf"), 2.0, 2.0], "row 2: the label is inf; it must be a name or a whole number."),
        ([b"a", b"\xff", b"b", b"b"], "row 2: the label 'ÿ' (read as Latin-1) is no text in UTF-8"),
        (
            [Decimal("1.0"), Decimal("1.5"), Decimal("2.0"), Decimal("2.0")],
            "row 2: the label is 1.5; it must be a name",
        ),
        (
            [Decimal("1.2"), Decimal("1.0"), Decimal("2.0"), Decimal("2.0")],
            "row 1: the label is 1.2; it must be a name",
        ),
        ([["a"], ["a"], ["b"], ["b"]], "the column 'label' is of the type list<"),
    ],
)
def test_labels_that_are_none(parquet, values, message):
    with pytest.raises(DataError) as caught:
        parquet(label=values)
    assert message in str(caught.value)


def test_paths_must_be_text(parquet):
    with pytest.raises(DataError, match=r"the column 'path' is of the type int64; a path is text\."):
        parquet(path=[1, 2, 3, 4], label=["a", "a", "b", "b"])
    with pytest.raises(DataError, match=r"; a label is text, a whole number or a truth value\."):
        parquet(label=[{"a": 1}] * 4)
    assert len(parquet(path=[path.encode() for path in PATHS], label=["a", "a", "b", "b"]).photos) == 4
    with pytest.raises(DataError, match=r"row 2: the path is empty\."):
        parquet(path=["cat/0.png", None, "dog/0.png", "dog/1.png"], label=["a", "a", "b", "b"])
    with pytest.raises(DataError, match=r"row 1: the path 'a\\x00b' contains a NUL\."):
        parquet(path=["a\0b", *PATHS[1:]], label=["a", "a", "b", "b"])


def test_columns_in_any_order(place, read):
    assert labels(read("split,label,path\ntrain,a,cat/0.png\ntrain,b,dog/0.png\n")) == ["a", "b"]
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"label": [1, 2], "path": [1, 2]}), place / "list.parquet")
    with pytest.raises(DataError, match=r"the column 'path' is of the type int64; a path is text\.$"):
        open_dataset(place / "list.parquet")
    parquet.write_table(pyarrow.table({"label": [[1], [2]], "path": ["a", "b"]}), place / "list.parquet")
    with pytest.raises(DataError, match=r"'label' is of the type list<.*; a label is text, a whole number or a truth"):
        open_dataset(place / "list.parquet")


def test_parquet_takes_no_columns_from_its_folder(place, parquet):
    parquet(label=["a", "a", "b", "b"])
    below = place / "split=test" / "label=x"
    below.mkdir(parents=True)
    (place / "list.parquet").rename(below / "list.parquet")
    with pytest.raises(DataError, match="none of its 4 photos is there"):
        open_dataset(below / "list.parquet")


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("split", "train val train test", "train val train test"),
        ("SPLIT", "Training,Val,Training,TEST", "train val train test"),
        ("subset", "train validation train validation", "train val train val"),
        ("Fold", "train test train test", "train test train test"),
        ("data-split", "train dev train dev", "train val train val"),
        ("purpose", "train test train test", "train test train test"),
        ("is_valid", "False True False 1", "train val train val"),
        ("is_test", "FALSCH WAHR falsch WAHR", "train test train test"),
        ("is valid", "0 1.0 no Yes", "train val train val"),
        ("IsTest", "f t n y", "train test train test"),
        ("is_train", "true false 1 0", "train test train test"),
        ("train", "1 0 1 0", "train test train test"),
        ("is_training_image", "1 0 1 0", "train test train test"),
    ],
)
def test_columns_of_splits(read, column, values, expected):
    values = re.split("[ ,]", values)
    found = read(rows("a", "b", header=f"path,label,{column}", values=values), training=False)
    assert splits(found) == expected.split()
    assert found.notes == (() if column.lower() == "split" else (f"The split is read from the column {column!r}.",))


def test_several_columns_of_truth_values(read, refusal):
    text = rows("a", "b", header="path,label,is_valid,is_test", values=["0,0", "1,0", "0,0", "0,1"])
    found = read(text)
    assert splits(found) == ["train", "val", "train", "test"]
    assert found.notes == ("The split is read from the columns 'is_valid' and 'is_test'.",)
    both = text.replace("1,0", "1,1")
    assert refusal(both) == ("TABLE, line 3: it is in val and in test, by the columns 'is_valid' and 'is_test'.")
    text = rows("a", "b", header="path,label,is_train,is_test", values=["1,0", "0,1", "1,0", "0,0"])
    assert refusal(text) == "TABLE, line 5: it is in no split, by the columns 'is_train' and 'is_test'."
    assert splits(read(text.replace("0,0", "0,1"))) == ["train", "test", "train", "test"]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("is_test", "0 0 0 maybe", "TABLE, line 5: is_test is 'maybe'; it must be true or false, 1 or 0."),
        (
            "valid",
            "1 0 1 0",
            "TABLE: the column 'valid' may mark the validation photos or those that are sound. Name it is_valid if it "
            "is the split, or leave it out with --ignore valid.",
        ),
        (
            "split",
            "train 1 train test",
            "TABLE, line 3: the split is '1'; it must be train, val, test or empty. Leave such rows out with --ignore "
            "1.",
        ),
        (
            "subset",
            "train tset train test",
            "TABLE, line 3: the split is 'tset'; it must be train, val, test or empty. Did you mean 'test'? "
            "Leave such rows out with --ignore tset.",
        ),
        (
            "split",
            "train val train valid",
            "TABLE: 'val' and 'valid' are all names of the split val. Use one, or leave rows out with --ignore valid.",
        ),
    ],
)
def test_columns_of_splits_with_mistakes(refusal, column, values, message):
    assert refusal(rows("a", "b", header=f"path,label,{column}", values=values.split())) == message


def test_two_columns_of_splits(read, refusal):
    text = rows("a", "b", header="path,label,split,is_valid,w", values=["train,0,1"] * 4)
    assert refusal(text) == (
        "TABLE has 2 columns that say the split: 'split' and 'is_valid'. Say which counts: --split-column split or "
        "--split-column is_valid."
    )
    assert read(text, ignore=["is_valid"]).notes == (
        "Columns ignored, as asked: 'is_valid'.",
        "Not read: the column 'w'.",
    )
    assert "2 columns that say the split: 'split' and 'set'" in refusal(
        text.replace("is_valid", "set").replace(",0", ",test")
    )


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("fold", "1 2 1 2", True),
        ("k_fold", "1 2 1 2", True),
        ("scaffold", "1 2 1 2", False),
        ("val_fold", "1 2 1 2", True),
        ("split_id", "0 1 0 1", True),
        ("train_test", "0 1 0 1", True),
        ("strain", "k12 b k12 b", False),
        ("is_holdout", "1 0 1 0", True),
        ("set", "x y x y", True),
        ("status", "valid valid valid valid", False),
        ("status", "valid test valid test", False),
        ("source", "train train train train", False),
        ("source", "train train train web", False),
        ("test", "ok bad ok bad", False),
        ("valid", "sound sound odd odd", False),
    ],
)
def test_columns_that_are_not_read_are_named(read, column, values, told):
    found = read(rows("a", "b", header=f"path,label,{column}", values=values.split()))
    assert splits(found) == [None] * 4
    notes = [f"Not read: the column {column!r}."]
    if told:
        notes.append(
            f"The column {column!r} may be a split, but its values are none of {NAMES}; the photos are split without "
            "it."
        )
    assert list(found.notes) == notes


def test_a_column_with_names_of_splits_and_other_values_is_told(read):
    found = read(rows("a", "b", header="path,label,ml_use", values=["TRAIN", "TEST", "", "unassigned"]))
    assert splits(found) == [None] * 4
    assert found.notes == (
        "Not read: the column 'ml_use'.",
        "The column 'ml_use' may be a split: it has names of splits and other values, such as 'unassigned'. Give "
        "--split-column ml_use if it is one; the photos are split without it.",
    )
    found = read(rows("a", "b", header="path,label,w", values=["TrainSet", "TestSet", "TrainSet", "TestSet"]))
    assert len(found.notes) == 2


def test_columns_of_parquet(parquet):
    same = {"label": ["a", "a", "b", "b"]}
    found = parquet(**same, is_valid=[True, False, True, False], box=[[1], [2], [3], [4]], fold=[1, 2, 3, 4])
    assert splits(found) == ["val", "train", "val", "train"]
    assert found.notes[:2] == (
        "The split is read from the column 'is_valid'.",
        "Not read: the columns 'box' and 'fold'.",
    )
    found = parquet(**same, is_test=[0.0, 1.0, 0.0, 1.0])
    assert splits(found) == ["train", "test", "train", "test"]
    with pytest.raises(DataError, match="row 2: is_test is None; it must be true or false"):
        parquet(**same, is_test=[True, None, False, True])
    found = parquet(**same, split=["train", None, "train", "test"])
    assert splits(found) == ["train", None, "train", "test"]


def test_rows_without_a_split_are_told(read):
    found = read(rows("a", "b", header="path,label,split", values=["train", "", "train", " "]))
    assert splits(found) == ["train", None, "train", None]
    assert found.notes == (
        "Without a split: 2 of 4 rows. They are trained on, or held out where the table marks none for that.",
    )
    assert read(rows("a", "b", header="path,label,split", values=[""] * 4)).notes == ()


def test_rows_can_be_left_out(read, refusal):
    text = rows("a", "b", header="path,label,split", values=["train", "extra", "train", "extra"])
    found = read(text, ignore=["extra"])
    assert splits(found) == ["train", "train"]
    assert found.notes == ("Rows ignored, as asked: 'extra' (2).",)
    message = refusal(text, kind=UsageError, ignore=["extar"])
    assert message == "TABLE has nothing named 'extar' to ignore. Did you mean 'extra'?"


def test_a_label_that_only_test_has(read, refusal):
    text = rows("ketch", "ketch", "dog", "ketches", header="path,label,is_test", values=["0", "0", "0", "1"])
    assert "the class 'ketches' has photos in test and none to train on. Did you mean 'ketch'?" in refusal(text)
    assert labels(read(text, allow_unseen=True)) == ["ketch", "ketch", "dog"]


# --- paths ----------------------------------------------------------------------------------------------------------


def test_paths_of_other_systems(read, place, monkeypatch):
    found = read(rows("a", "b").replace("/", "\\"))
    assert [found.shown(photo.path) for photo in found.photos] == PATHS
    assert found.notes == ("Paths written with backslashes, and found: 4.",)
    (place / "odd\\name.png").touch()
    assert read(rows("a", "b") + "odd\\name.png,a\n").notes == ()
    monkeypatch.setenv("HOME", str(place))
    found = read(rows("a", "b") + f"~/cat/2.png,a\nfile://{place}/dog/2.png,b\n{place}/cat/../dog/0.png,b\n")
    assert len(found.photos) == 6
    assert found.notes == (
        "Listed again with the same label, and counted once: 1 of 7 rows.",
        "Paths written from the home folder (~), and found: 1.",
        "Paths written as addresses (file://), and found: 1.",
    )


def test_paths_in_another_unicode_form(read, place):
    (place / unicodedata.normalize("NFD", "café.png")).touch()
    (place / unicodedata.normalize("NFC", "thé.png")).touch()
    names = [unicodedata.normalize("NFC", "café.png"), unicodedata.normalize("NFD", "thé.png")]
    found = read(rows("a", "b") + "".join(f"{name},a\n" for name in names))
    assert found.notes == ("Paths written in another Unicode form, and found: 2.",)
    assert all(photo.path.exists() for photo in found.photos)


def test_white_space_around_a_path(read, place):
    (place / " spaced.png").touch()
    found = read(rows("a", "b") + '" spaced.png",a\n cat/2.png ,a\n')
    assert all(photo.path.exists() for photo in found.photos)
    assert found.notes == ()


def test_addresses_are_refused(refusal):
    assert refusal(rows("a", "b") + "HTTPS://x.org/y.jpg,a\n") == (
        "TABLE, line 6: HTTPS://x.org/y.jpg is an address on the web. Download it and give its path."
    )


def test_a_photo_that_is_listed_twice(read, refusal, place):
    assert len(read(rows("a", "b") + "cat/./0.png,a\n").photos) == 4
    assert refusal(rows("a", "b") + "dog/../cat/0.png,b\n") == (
        "TABLE, line 6: dog/../cat/0.png is listed already, in line 2, as 'a', and here as 'b'. List each photo once."
    )
    text = rows("a", "b", header="path,label,split", values=["train"] * 4) + "cat/0.png,a,test\n"
    assert "in line 2, as 'a' in train, and here as 'a' in test." in refusal(text)
    (place / "link.png").symlink_to(place / "cat" / "0.png")
    assert len(read(rows("a", "b") + "link.png,b\n").photos) == 5  # two files


def test_a_table_whose_photos_are_elsewhere(refusal, read, place, monkeypatch):
    assert refusal("path,label\n9.png,a\nx/2.png,b\n") == (
        "TABLE: none of its 2 photos is there. The first, 9.png (line 2), was looked for as FOLDER/9.png. Paths are "
        "absolute, or relative to the folder of the table."
    )
    for path in ("C:\\photos\\cat\\0.png", "/home/me/cat/0", "cat/0.jpeg"):
        assert refusal(f"path,label\n{path},a\ndog/9,b\n").endswith(" There is cat/0.png: write the path so.")
    for path in ("0", "0.png"):
        assert refusal(f"path,label\n{path},a\ndog/9,b\n").endswith(
            " It is there in cat: give --image-root FOLDER/cat."
        )
    assert refusal("path,label\n9.png,a\ncat/9.png,b\n").endswith("relative to the folder of the table.")
    (place / "lists").mkdir()
    monkeypatch.chdir(place)
    assert refusal(rows("a", "b"), "lists/list.csv").endswith(
        "It is there relative to the working folder: give --image-root ."
    )
    found = open_dataset("lists/list.csv", image_root=".")
    assert [found.shown(photo.path) for photo in found.photos] == PATHS
    assert found.looked_in == f"relative paths are looked up in {place} (as --image-root says)"
    assert "none of its 4 photos is there" in refusal(rows("a", "b"), image_root="cat")
    assert "there is no folder 'cart', which --image-root asks for. Did you mean 'cat'?" in refusal(
        rows("a", "b"), kind=UsageError, image_root="cart"
    )


def test_some_photos_that_are_not_there_are_told_with_the_folder(read, place):
    found = read("path,label\n1.png,a\ncat/0.png,b\n")
    assert len(found.photos) == 2  # the audit names it, too
    assert found.looked_in == f"relative paths are looked up in {place} (the folder of the table)"
    assert found.notes == (f"Not there: 1 of 2 listed paths, such as 1.png; {found.looked_in}.",)
    assert read(f"path,label\n{place}/cat/0.png,a\n{place}/dog/0.png,b\n").looked_in == ""


def test_photos_that_are_in_two_folders_are_told(read, place, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    (other / "cat").mkdir()
    (other / "cat" / "0.png").touch()
    monkeypatch.chdir(other)
    (note,) = read(rows("a", "b")).notes
    assert note.startswith(
        "1 of the paths, such as cat/0.png, are there relative to the working folder as well, as other"
    )
    assert note.endswith(f"Those in {place} are taken, the folder of the table; --image-root . takes the others.")
    monkeypatch.chdir(place)
    assert read(rows("a", "b")).notes == ()


def test_paths_without_their_ending(read, refusal, place):
    (place / "dog" / "3.JPG").touch()
    found = read("image_id,label\ncat/0,a\ncat/1,a\ndog/3,b\n")
    assert [found.shown(photo.path) for photo in found.photos] == ["cat/0.png", "cat/1.png", "dog/3.JPG"]
    assert found.notes == (
        "The path is read from the column 'image_id'.",
        "Paths written without their ending, and found: 2 with .png, 1 with .JPG.",
    )
    assert len(read("id,breed\n0,a\n1,b\n", image_root=str(place / "cat")).photos) == 2
    backslashes = read("path,label\ncat\\0,a\ndog\\0,b\n")
    assert backslashes.notes[-2:] == (
        "Paths written with backslashes, and found: 2.",
        "Paths written without their ending, and found: 2 with .png.",
    )
    (place / "cat" / "0.jpg").touch()
    assert refusal("path,label\ncat/0,a\ndog/0,b\n") == (
        "TABLE, line 2: cat/0 has no ending, and there are 0.jpg and 0.png. Write the one that is meant."
    )


def test_names_in_another_case(read, place):
    found = read("path,label\ncat/0.PNG,a\ncat/1.png,a\ndog\\0.Png,b\n")
    assert [found.shown(photo.path) for photo in found.photos] == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert found.notes[-1] == "Paths written in another case, and found: 2."
    (place / "cat" / "0.Png").touch()  # either may be meant
    assert read("path,label\ncat/0.PNG,a\ncat/1.png,a\n", training=False).notes[0].startswith("Not there: 1 of 2")


# --- what a person says of a table --------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ",;\t|")
@pytest.mark.parametrize("path_column", ["Datei", "datei", "DATEI "])
def test_columns_that_are_said(read, place, mark, path_column):
    other = ";" if mark == "," else ","  # within a path and a label
    (place / f"1{other}2.png").touch()
    text = f"Datei{mark}Art\ncat/0.png{mark}a{other}b\n1{other}2.png{mark}e\n"
    found = read(text, path_column=path_column, label_column="art")
    assert [found.shown(photo.path) for photo in found.photos] == [f"1{other}2.png", "cat/0.png"]
    assert labels(found) == ["e", f"a{other}b"]
    assert found.notes[-2:] == (
        "The path is read from the column 'Datei'.",
        "The label is read from the column 'Art'.",
    )


def test_a_column_that_is_said_and_not_there(refusal):
    assert refusal(rows("a", "b"), kind=UsageError, label_column="lable") == (
        "TABLE has no column 'lable' (it has path, label), which --label-column asks for. Did you mean 'label'?"
    )
    assert "cannot be both path and label" in refusal(rows("a", "b"), kind=UsageError, path_column="label")
    assert "cannot be the split as well" in refusal(rows("a", "b"), kind=UsageError, split_column="label")
    assert "has 2 columns 'a'" in refusal("path,label,a,a\nx,y,z,z\n", kind=UsageError, split_column="a")


def test_what_is_said_counts_for_tables_only(place):
    for option in ("path_column", "label_column", "split_column", "image_root"):
        with pytest.raises(UsageError, match=rf"^--{option.replace('_', '-')} is for tables \(\.csv, .* is none"):
            open_dataset(place, **{option: "x"})


def test_the_split_that_is_said(read, refusal):
    text = rows("a", "b", header="path,label,split,ml_use,is_test", values=["train,TEST,1", "test,TRAINING,0"] * 2)
    assert splits(read(text, split_column="ml_use")) == ["test", "train", "test", "train"]
    assert splits(read(text, split_column="is_test")) == ["test", "train", "test", "train"]
    found = read(text, split_column="split")
    assert splits(found) == ["train", "test", "train", "test"]
    assert found.notes == ("Not read: the columns 'ml_use' and 'is_test'.",)
    assert "the split is '1'; it must be train, val, test" in refusal(
        rows("a", "b", header="path,label,fold", values="1212"), split_column="fold"
    )


def test_names_of_columns_come_before_their_numbers(read, refusal):
    text = rows("a", "b", header="filename,category,image_id,class_id,species", values=["7,0,x"] * 4)
    assert read(text).notes == (
        "The path is read from the column 'filename'.",
        "The label is read from the column 'category'.",
        "Not read: the columns 'image_id', 'class_id' and 'species'.",
    )
    assert "2 columns that may be the label: 'class_id' and 'species'" in refusal(text.replace("category", "w"))


def test_a_separator_that_is_not_sure_is_asked_for(read, refusal):
    text = "path,label,x;path;label\ncat/0.png,a,x;y;z\ndog/0.png,b,x;y;z\n"
    assert refusal(text) == (
        "TABLE, line 1: the columns may be separated by commas or semicolons. Say by which in a line above it: sep=, "
        "or sep=;."
    )
    assert labels(read("sep=,\n" + text)) == ["a", "b"]
    assert "no column 'path' (it has Datei, Art)" in refusal("Datei;Art\nx,1.png;a\ny.png;b\n")
    assert "its first line is one field, 'Datei;Art'" in refusal("Datei;Art\nx.png\n")
    assert refusal('"path,label"\n"cat/0.png,a"\n').endswith("Take away the quotes around whole lines: path,label.")
    assert "no column 'label' (it has path)" in refusal("path\ncat/0.png\n")
    assert "its first line has a photo, cat/0.png. Put the names of the columns above" in refusal("cat/0.png;a\n")


def test_tables_as_other_programs_write_them(read, refusal):
    lines = rows("a", "b").splitlines()
    numbered = [lines[0], *(f"{n},{line}" for n, line in enumerate(lines[1:], 1))]
    assert read("\n".join(numbered)).notes == ("Not read: the column without a name.",)  # R's write.table
    quoted = [" ".join(f'"{field}"' for field in line.split(",")) for line in numbered]
    assert labels(read("\n".join(quoted))) == ["a", "a", "b", "b"]  # with its usual separator
    assert "it has 3 fields" in refusal("\n".join([*numbered[:2], "7" + numbered[2], *numbered[3:]]))
    pandas = ["," + lines[0], *(f"{n},{line}" for n, line in enumerate(lines[1:]))]
    assert read("\n".join(pandas)).notes == ("Not read: the column without a name.",)
    excel = "\r\n".join(rows("caf\u00e9", "b").replace(",", "\t").splitlines())  # as "Unicode text"
    for content in (excel.encode("utf-16"), b"\xfe\xff" + excel.encode("utf-16-be")):
        found = read(content, "list.txt")
        assert found.notes == ("list.txt is read as UTF-16.",)
        assert labels(found) == ["caf\u00e9", "caf\u00e9", "b", "b"]
    assert "is no table of text in UTF-16" in refusal(b"\xff\xfea")


# --- any table ------------------------------------------------------------------------------------------------------

_CELLS = st.one_of(
    st.sampled_from(
        ["cat", "Cat", "dog", "nan", "", " ", "1", "1.0", "train", "val", "test", "true", "0", "caf\u00e9"]
    ),
    st.sampled_from([*PATHS, "cat\\0.png", "missing.png", '"', '"a,b"', 'a"b', "a,b", "http://x/y.jpg", "\u2028"]),
    st.text(max_size=5),
)
_HEADERS = st.lists(
    st.sampled_from(["path", "Path", "label", "class", "split", "is_valid", "fold", "w", "valid", ""]),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    header=_HEADERS | st.just(["path", "label"]) | st.just(["path", "label", "split"]),
    cells=st.lists(st.lists(_CELLS, min_size=1, max_size=5), max_size=8),
    quoted=st.booleans(),
    rest=st.booleans(),
)
def test_any_table_is_told_whole_or_refused(tmp_path_factory, header, cells, quoted, rest):
    root = tmp_path_factory.mktemp("table")
    for path in PATHS:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).touch()
    if rest:  # rows of the right length
        cells = [(row * 5)[: len(header)] for row in cells]
        cells = [[PATHS[n % 4], *row[1:]] for n, row in enumerate(cells)] if header[0] == "path" else cells
    buffer = io.StringIO(newline="")
    if quoted:
        csv.writer(buffer, lineterminator="\n").writerows([header, *cells])
    else:
        buffer.write("\n".join(map(",".join, [header, *cells])))
    (root / "list.csv").write_bytes(buffer.getvalue().encode("utf-8", "surrogatepass"))
    try:
        found = open_dataset(root / "list.csv")
    except VertebraError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(str(root / "list.csv"))
        return
    read = sum(any(cell.strip() for cell in row) for row in cells)  # rows that are not empty
    again = next((note for note in found.notes if note.startswith("Listed again")), "once: 0 of")
    assert len(found.photos) + int(re.search(r"once: (\d+) of", again)[1]) == read
    for name in header:
        if name.lower() not in ("path", "label", "class", "split"):
            assert repr(name) in " ".join(found.notes) or not name
    assert {photo.label for photo in found.photos} == set(found.classes)
    assert all(name == name.strip() and name == unicodedata.normalize("NFC", name) for name in found.classes)
