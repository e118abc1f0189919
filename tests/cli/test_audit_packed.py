"""`vertebra audit` of shards and Parquet whose labels contradict each other: refused, or told."""

import io
import json
import re
import tarfile

import pytest
from packed_photos import pack_parquet
from PIL import Image


def photo(number):
    target = io.BytesIO()
    Image.new("RGB", (32, 32), (number * 40 % 256, number * 7 % 256, 90)).save(target, "PNG")
    return target.getvalue()


def shard(path, *photos):
    """A shard of photos, each given by what lies beside it."""
    with tarfile.open(path, "w") as archive:
        for number, sidecars in enumerate(photos):
            for extension, value in {"png": photo(number), **sidecars}.items():
                text = json.dumps(value) if extension == "json" else value
                content = text.encode() if isinstance(text, str) else text
                info = tarfile.TarInfo(f"{number}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def beside(cls, **fields):
    return {"cls": cls, "json": fields}


# What lies beside each photo, the error, and what makes the data readable.
CONTRADICTIONS = {
    "cls and json": (
        [beside("cat", label="cat"), beside("dog", label="cat"), beside("dog", label="dog")],
        r"x\.tar::1\.png has the label 'dog' by \.cls and 'cat' by the field 'label' of \.json, but .*x\.tar::0\.png "
        r"has 'cat' and 'cat': they contradict each other\. .* --ignore cls or --ignore label\.",
        "json",
    ),
    "swapped": (
        [beside("cat", label="dog"), beside("dog", label="cat")],
        r"0\.png has the label 'cat' by \.cls and 'dog' by .*, but .*1\.png has 'dog' by \.cls: they contradict",
        "label",
    ),
    "from 0 and from 1": (
        [beside("0", label=1), beside("1", label=2)],
        r"0\.png has the label '0' by \.cls and '1' by .*, but .*1\.png has '1' by \.cls",
        "cls",
    ),
    "fields of json": (
        [{"json": {"label": "pug", "category": "dog"}}, {"json": {"label": "husky", "category": "dog"}}],
        r"1\.png has the label 'husky' by the field 'label' .* and 'dog' by the field 'category' .* --ignore category",
        "category",
    ),
    "numbers and names": (
        [{"cls": "0"}, {"json": {"label": "dog"}}],
        r"0\.png has the label '0' by \.cls, and .*1\.png the label 'dog' by .*: a number and a name",
        None,
    ),
    "split": (
        [beside("cat", label="cat", split="val"), beside("dog", label="dog", split="train")],
        r"train-x\.tar::0\.png: its \.json says the split val, and the shard's name train\. .* --ignore split",
        "split",
    ),
    "unknown split": (
        [beside("cat", label="cat", split="left"), beside("dog", label="dog", split="train")],
        r"0\.png, in its \.json: the split is 'left'; it must be train, val, test or empty",
        "split",
    ),
    "caption": (
        [{"txt": "cat"}, {"txt": "dog"}],
        r"0\.png has no label: .* \(0\.txt is a caption, and no label\)",
        None,
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_labels_of_shards_that_contradict_each_other(case, vertebra, tmp_path):
    photos, message, remedy = CONTRADICTIONS[case]
    path = shard(tmp_path / ("train-x.tar" if case == "split" else "x.tar"), *photos)
    done = vertebra("audit", path)
    assert done.code == 1 and re.search(message, done.error), done.error
    if remedy is not None:
        assert vertebra("audit", path, "--ignore", remedy).code == 0


def test_labels_of_shards_that_are_the_same_classes_by_other_names(vertebra, tmp_path):
    path = shard(tmp_path / "x.tar", beside("0", label="cat"), beside("1", label="dog"), {"cls": "1"})
    done = vertebra("audit", path)
    assert done.code == 0
    assert (
        "Labels are of .cls; the field 'label' of .json calls the same classes otherwise, such as 'cat' for '0'."
        in (done.out.replace("\n", " "))
    )
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    done = vertebra("audit", path)
    assert done.code == 1 and "0.png has the label 'dog' by .cls and 'cat' by the field 'label' of .json" in done.error
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    done = vertebra("audit", path)
    assert done.code == 0 and "calls the same classes otherwise" not in done.out
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    done = vertebra("audit", path)
    assert done.code == 1 and "classes.txt and " in done.error and "--ignore labels.txt" in done.error
    assert vertebra("audit", path, "--ignore", "labels.txt").code == 0


def test_splits_of_photos_in_shards(vertebra, tmp_path):
    photos = [beside(name, label=name, split=split) for name in ("cat", "dog") for split in ("train", "validation")]
    done = vertebra("audit", shard(tmp_path / "x.tar", *photos), "--json")
    assert done.json["splits"] == {"train": 2, "val": 2}


def parquet(path, names=("cat", "dog"), **columns):
    """A file of four photos; `columns` are added to those of the photo and its label."""
    import pyarrow
    from pyarrow import parquet

    pack_parquet(path, [("a.png", photo(n), ("cat", "dog")[n % 2]) for n in range(4)], names)
    table = parquet.read_table(path)
    for name, values in columns.items():
        table = table.append_column(name, pyarrow.array(values))
    parquet.write_table(table, path)
    return path


def test_labels_of_parquet_that_contradict_each_other(vertebra, tmp_path):
    pytest.importorskip("pyarrow")
    path = parquet(tmp_path / "a" / "0.parquet", **{"class": list("abab")})
    done = vertebra("audit", path)
    assert done.code == 1 and "2 columns that may be the label: 'label' and 'class'" in done.error
    assert vertebra("audit", path, "--label-column", "class").code == 0

    path = parquet(tmp_path / "b" / "0.parquet", species=list("abab"))
    done = vertebra("audit", path)
    assert done.code == 0 and "Not read: the column 'species'" in done.out.replace("\n", " ")

    parquet(tmp_path / "c" / "0.parquet")
    (tmp_path / "c" / "classes.txt").write_text("dog\ncat\n")
    done = vertebra("audit", tmp_path / "c")
    assert done.code == 1
    assert re.search(
        r"classes\.txt names classes otherwise than .*0\.parquet does .*: 0 is 'dog' and 'cat'", done.error
    )
    assert vertebra("audit", tmp_path / "c", "--ignore", "classes.txt").code == 0
    (tmp_path / "c" / "classes.txt").write_text("cat\ndog\n")
    assert vertebra("audit", tmp_path / "c").code == 0

    parquet(tmp_path / "d" / "0.parquet")
    parquet(tmp_path / "d" / "1.parquet", names=None)
    assert vertebra("audit", tmp_path / "d").code == 0  # which has the names as text
    pack_parquet(tmp_path / "d" / "2.parquet", [("a.png", photo(9), 1)])
    done = vertebra("audit", tmp_path / "d")
    assert done.code == 1 and re.search(r"0\.parquet names the classes .* and .*2\.parquet has numbers", done.error)

    parquet(tmp_path / "e" / "train-0.parquet", split=["train", "train", "val", "train"])
    done = vertebra("audit", tmp_path / "e")
    assert done.code == 1 and "the split is val, and the file's name says train" in done.error
