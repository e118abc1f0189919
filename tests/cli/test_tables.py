"""Tables as people have them, from the file to the classifier: `audit`, `train`, `evaluate` and a run that goes on."""

import tomllib

import pytest

pytest.importorskip("torch")


@pytest.fixture
def place(tmp_path, tiny_photos):
    """The tiny photos in one folder, and a table of their numbers and species as a spreadsheet writes it."""
    (tmp_path / "images").mkdir()
    rows = ["image_id;species;class;comment"]
    for number, path in enumerate(sorted(tiny_photos.rglob("*.png"))):
        (tmp_path / "images" / f"{number:04x}.png").symlink_to(path)
        rows.append(f'{number:04x};{path.parent.name};{number % 2};"a, b; c"')
    (tmp_path / "list.csv").write_text("\r\n".join([*rows, ""]), encoding="utf-8-sig")
    return tmp_path


def test_a_table_is_audited_or_says_what_to_write(vertebra, place, monkeypatch):
    monkeypatch.chdir(place)
    table = place / "list.csv"
    # A name such as `class` comes before words such as `species`, and that is told.
    assert vertebra("audit", "list.csv", "--label-column", "species").error == (
        "vertebra: list.csv: none of its 36 photos is there. The first, 0000 (line 2), was looked for as "
        f"{place}/0000. Paths are absolute, or relative to the folder of the table. It is there in images: give "
        "--image-root images."
    )
    done = vertebra("audit", table, "--image-root", "images")
    assert "The label is read from the column 'class'." in done.out
    assert "Not read: the columns 'species' and 'comment'." in done.out
    done = vertebra("audit", table, "--image-root", "images", "--label-column", "Species", "--html", "page.html")
    assert done.code == 0
    lines = done.out.splitlines()
    assert f"relative paths are looked up in {place}/images (as --image-root says)" in lines
    for note in (
        "The fields of list.csv are separated by semicolons.",
        "The path is read from the column 'image_id'.",
        "The label is read from the column 'species'.",
        "Not read: the columns 'class' and 'comment'.",
        "Paths written without their ending, and found: 36 with .png.",
    ):
        assert note in lines
    page = (place / "page.html").read_text("utf-8")
    assert f"vertebra audit {table} --html page.html --label-column Species --image-root images" in page
    table.write_text(table.read_text("utf-8-sig").replace("comment", "category"), "utf-8")
    assert vertebra("audit", table, "--image-root", "images").error.endswith(
        "has 2 columns that may be the label: 'class' and 'category', which begin with '0' and 'a, b; c'. Say which: "
        "--label-column class or --label-column category."
    )
    done = vertebra("audit", "images", "--path-column", "x")
    assert (done.code, "--path-column is for tables" in done.error) == (2, True)


def test_from_python(place, tiny_run, tiny_registry):
    import vertebra

    columns = {"path_column": "image_id", "label_column": "species", "image_root": place / "images"}
    found = vertebra.train(
        place / "list.csv", place / "run", model="resnet18", weights=tiny_run.parent / "drawn.pth", folds=3, **columns
    )
    assert found.metrics["n"] == 36
    measured = vertebra.train.evaluate(place / "run" / "model.onnx", place / "list.csv", **columns)
    assert measured.trained_on == 36
    assert measured.arguments[:2] == ("--path-column", "image_id")


def test_a_run_keeps_how_its_table_is_read(vertebra, place, tiny_run, tiny_registry, monkeypatch):
    monkeypatch.chdir(place)
    weights = ("--model", "resnet18", "--weights", tiny_run.parent / "drawn.pth", "--set", "folds=3")
    columns = ("--label-column", "species", "--image-root", "images")
    done = vertebra("train", "list.csv", "--out", "run", *weights, *columns)
    assert done.code == 0, done.err
    assert f"Relative paths are looked up in {place}/images (as --image-root says)." in done.out
    assert "The label is read from the column 'species'." in done.out
    kept = tomllib.loads((place / "run" / "settings.toml").read_text("utf-8"))
    assert (kept["label_column"], kept["image_root"], kept["cwd"]) == ("species", "images", str(place))
    monkeypatch.chdir(place.parent)
    done = vertebra("train", "--config", place / "run" / "settings.toml", "--out", place / "again")
    assert done.code == 0, done.err
    done = vertebra("train", "--resume", place / "run", "--set", "label_column=class")
    assert done.code == 2
    done = vertebra("evaluate", place / "run", place / "list.csv", "--html", place / "page.html")
    assert done.code == 0, done.err
    assert f"Relative paths are looked up in {place}/images (as --image-root says)." in done.out
    assert f"The table is read as the run's: --label-column species --image-root {place}/images." in done.out
    assert "36 of these 36 photos trained this classifier" in done.out
    page = (place / "page.html").read_text("utf-8")
    assert f"list.csv --label-column species --image-root {place}/images --html" in page
    done = vertebra("evaluate", place / "run", place / "list.csv", "--label-column", "class", *columns[2:])
    assert done.code == 2
    assert "36 of these" not in done.out
