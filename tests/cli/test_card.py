"""`vertebra card`: what a file says of itself, and whether it is as it was exported."""

import pytest
from PIL import Image

from vertebra.card import Card, Preprocessing, WeightSource, read_card


@pytest.fixture
def model(tmp_path, write_model):
    return write_model(tmp_path / "m.onnx", checksum=True)


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (50, 40), "orange").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def damage(path):
    data = bytearray(path.read_bytes())
    data[600] ^= 0x80  # the sign of a weight
    path.write_bytes(data)


def test_a_file_that_is_as_it_was_exported(vertebra, model):
    digest = read_card(model).content_sha256
    result = vertebra("card", model, "--verify")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{model} is as it was exported: the SHA-256 of its contents is {digest}\n"
    assert vertebra("card", model, "--verify", "--json").json["content_sha256"] == digest
    assert f"contents       SHA-256 {digest}" in vertebra("card", model).out


def test_a_damaged_file(vertebra, model, photo):
    assert vertebra("predict", photo, "--model", model).code == 0
    damage(model)
    shown = vertebra("card", model)
    assert (shown.code, shown.err) == (0, ""), "the card can be read, and says so"
    for arguments in (("card", model, "--verify"), ("card", model, "--verify", "--json"), ("predict", photo)):
        result = vertebra(*arguments, *(("--model", model) if arguments[0] == "predict" else ()))
        assert (result.code, result.out) == (1, "")
        assert "m.onnx is damaged" in result.error and "vertebra export" in result.error


def test_a_file_without_a_checksum(vertebra, tiny_model, photo):
    result = vertebra("card", tiny_model, "--verify")
    assert (result.code, result.out) == (1, "") and "cannot be known" in result.error
    assert "contents       without a checksum" in vertebra("card", tiny_model).out
    assert vertebra("predict", photo, "--model", tiny_model).code == 0


def test_control_characters_do_not_reach_the_terminal(vertebra, write_model, tmp_path):
    path = write_model(tmp_path / "m.onnx", classes=("red\x1b[31m", "two\nlines", "bell\x07"))
    result = vertebra("card", path, "--markdown", tmp_path / "card.md")
    assert r"3: red\x1b[31m, two\nlines, bell\x07" in result.out
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert r"1. two\nlines" in text and not any(mark in text + result.out for mark in "\x1b\x07")


def test_a_name_whose_weights_are_not_here_has_its_published_figures(vertebra, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    result = vertebra("card", "resnet50.tv_in1k")
    assert result.code == 0 and "ResNet50_Weights.IMAGENET1K_V1, 103 MB" in result.out
    assert result.error.startswith(
        "vertebra: that is what is published; the card of its exported file cannot be made: resnet50-0676ba61.pth is "
        "not on this machine"
    )
    result = vertebra("card", "resnet50", "--json")
    assert (result.code, result.out) == (1, "") and "not on this machine" in result.error


def test_weights_without_a_digest_have_none_on_the_card(vertebra, write_model, tmp_path):
    card = Card("tiny", Preprocessing(32, 40), ("cat", "dog", "fish"), weights=WeightSource("not recorded"))
    result = vertebra("card", write_model(tmp_path / "m.onnx", card=card.to_json()))
    assert "weights        not recorded\n" in result.out
