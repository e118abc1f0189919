"""The book's figures of networks: drawn from the networks as they are, complete, in both languages."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vertebra.errors import UsageError, VertebraError
from vertebra.models import create_model

DOCS = Path(__file__).parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def script(docs_module):
    return docs_module("make_figures")


@pytest.fixture(scope="module")
def figures(script):
    """The committed figures by file name, as XML."""
    return {path.name: ElementTree.parse(path).getroot() for path in script.FOLDER.glob("*.svg")}


def words(root):
    return [" ".join(text.itertext()) for text in root.iter(f"{SVG}text")]


# --- they are those of today ----------------------------------------------------------------------------------------


def kept(script):
    return json.loads((script.FOLDER / ".sources").read_text("utf-8"))


def test_the_figures_were_drawn_by_the_sources_that_are_here(script):
    assert kept(script)["drawing"] == script.sources(), "run: make figures"


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "resnet18", "efficientnet_b0"])
def test_the_figures_show_the_networks_as_they_are(script, name):
    assert kept(script)["networks"][name] == script.parts_digest(name), "run: make figures"


@pytest.mark.slow
def test_the_figures_show_every_network_as_it_is(script):
    assert kept(script)["networks"] == {name: script.parts_digest(name) for name in kept(script)["networks"]}
    drawn = {panel.network for panels in script.FIGURES.values() for panel in panels}
    assert drawn == kept(script)["networks"].keys()


@pytest.mark.slow
def test_drawn_again_they_are_the_same_to_the_byte(script):
    try:
        files = script.draw()
    except VertebraError as error:
        pytest.skip(str(error))
    assert files == {path.name: path.read_text("utf-8") for path in script.FOLDER.glob("*.svg")}


# --- each file ------------------------------------------------------------------------------------------------------


def test_every_figure_of_the_table_is_there_in_both_languages_and_no_other(script, figures):
    assert figures.keys() == {f"{name}{suffix}" for name in script.FIGURES for suffix in (".svg", ".ja.svg")}


def test_every_figure_of_the_table_is_on_a_page_and_every_figure_on_a_page_is_in_the_table(script):
    pages = "\n".join(path.read_text("utf-8") for path in script.FOLDER.parent.glob("*.md"))
    assert set(re.findall(r"\(figures/([\w-]+)\.svg\)", pages)) == set(script.FIGURES)


def test_a_file_needs_nothing_else_and_tells_what_it_shows(figures):
    for name, root in figures.items():
        assert root.get("viewBox").startswith("0 0 700 "), f"{name} is wider than a column of text"
        assert root.get("width") is None
        assert root.find(f"{SVG}title").text
        assert root.find(f"{SVG}desc").text
        text = ElementTree.tostring(root, encoding="unicode")
        assert not re.search(r"href|url\(|@import|<script", text), name
        assert "prefers-color-scheme:dark" in text
        sizes = [float(each.get("font-size")) for each in root.iter(f"{SVG}text")]
        assert min(sizes) >= 10.5, f"{name} cannot be read"


def test_japanese_figures_are_in_japanese(script, figures):
    english_words = re.compile(r"×\d conv\b|\b(stride|pooling|normalisation|linear|addition|share|input|output)\b")
    for name in script.FIGURES:
        english, japanese = figures[f"{name}.svg"], figures[f"{name}.ja.svg"]
        assert english_words.search(" ".join(words(english)))
        assert not JAPANESE.search(" ".join(words(english))), name
        assert not english_words.search(" ".join(words(japanese))), name
        assert "出力" in words(japanese)
        # The lines are the same: the languages differ in words alone.
        paths = [[each.get("d") for each in root.iter(f"{SVG}path")] for root in (english, japanese)]
        assert paths[0] == paths[1]


def test_the_shares_are_those_of_the_network(figures):
    import torch

    with torch.device("meta"):
        network = create_model("vgg16")
    total = sum(each.numel() for each in network.parameters())
    head = sum(each.numel() for each in network.classifier.parameters())
    shown = words(figures["vgg16-costs.svg"])  # on the left the parameters
    assert shown[shown.index("classifier") - 1] == f"{100 * head / total:.1f} %"


def test_a_dense_layer_reads_from_the_band_what_its_convolution_has_beside_the_layer_before(figures):
    import torch

    with torch.device("meta"):
        block = create_model("densenet121").features.denseblock1
    labels = [word for word in words(figures["dense-block.svg"]) if re.fullmatch(r"64( \+ (\d×)?32)?", word)]
    read = []
    for label in labels:
        products = [term.split("×") for term in label.split(" + ")]
        read.append(sum(int(term[-1]) * (int(term[0]) if len(term) == 2 else 1) for term in products))
    expected = [layer.conv1.in_channels - 32 for layer in list(block.values())[1:]]
    assert read == [*expected, expected[-1] + 32], "the layers after the first, and the concatenation"


# --- a block by itself ----------------------------------------------------------------------------------------------


def test_a_close_up_has_the_block_alone_and_reads_the_input(script):
    panel = script.drawn_panel(script.Panel("resnet18", "layer1.1"))
    parts = {part["id"]: part for part in panel["network"]["parts"]}
    assert panel["unfolded"] == ["block/layer1.1"]
    assert panel["network"]["input"] == (64, 56, 56)
    assert {part["name"].startswith("layer1.1") for part in parts.values()} == {True}
    assert [part["id"] for part in parts.values() if part["parent"] is None] == ["block/layer1.1"]
    assert parts["layer/layer1.1.add"]["reads"] == ["layer/layer1.1.conv2", "input"]
    assert {read for part in parts.values() for read in part["reads"]} <= parts.keys() | {"input"}
    # The network itself is as it was.
    whole = script.drawn_panel(script.Panel("resnet18"))["network"]
    assert next(part for part in whole["parts"] if part["id"] == "block/layer1.1")["parent"] == "stage/layer1"


def test_a_part_that_the_network_does_not_have_is_told_with_the_nearest(script):
    with pytest.raises(UsageError, match=r"no part 'layer1\.2'.*Did you mean"):
        script.drawn_panel(script.Panel("resnet18", "layer1.2"))
    with pytest.raises(UsageError, match="no part 'nowhere'"):
        script.drawn_panel(script.Panel("resnet18", "layer1.0", unfolded=("nowhere",)))


def test_without_node_one_line_says_what_to_install(script, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    with pytest.raises(VertebraError, match=r"install Node\.js"):
        script.draw()
