"""The checksum of a model's file: no byte of it changes without a word, and it is read once for each state."""

import json
import os

import numpy as np
import pytest

from vertebra import model_checksum
from vertebra.card import METADATA_KEY, CardError, read_card
from vertebra.model_checksum import BLANK, DamagedError, insert_checksum, read_verified_card, verify
from vertebra.runtime.predictor import Predictor

onnx = pytest.importorskip("onnx")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sealed(tmp_path, write_model):
    """A small file with a checksum, as `vertebra export` writes it."""
    return write_model(tmp_path / "m.onnx", checksum=True)


@pytest.fixture
def readings(monkeypatch):
    """The times that a whole file was read for its checksum."""
    found = []
    digests = model_checksum._compute_digests
    monkeypatch.setattr(model_checksum, "_compute_digests", lambda *a: found.append(a) or digests(*a))
    return found


def test_a_whole_file_has_the_card_it_had(sealed):
    card = read_verified_card(sealed)
    assert card == verify(sealed) == read_card(sealed) == Predictor(sealed).card
    zeros = sealed.read_bytes().replace(card.content_sha256.encode(), BLANK.encode())
    assert insert_checksum(zeros) == (sealed.read_bytes(), card.content_sha256)


def test_one_bit_of_any_byte(sealed):
    whole = sealed.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        sealed.write_bytes(damaged)
        with pytest.raises(CardError):
            read_verified_card(sealed)


def swapped(data):
    data[300:400], data[700:800] = data[700:800], data[300:400]
    return data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[: data.index(METADATA_KEY.encode()) - 60],
        lambda data: data + b"\x00",
        lambda data: data + b"\x08\x09",  # another version of the format, as a field of its own
        swapped,
        lambda data: data[:500] + bytes(100) + data[600:],
        lambda data: data.replace(b"content_sha256", b"content_sha257"),
        lambda data: data.replace(b'"dog"', b'"cow"'),
        lambda data: data.replace(b'"resize_size": 40', b'"resize_size": 41'),
    ],
)
def test_other_damage(sealed, damage):
    read_verified_card(sealed)
    whole = sealed.read_bytes()
    sealed.write_bytes(damage(bytearray(whole)))
    assert sealed.read_bytes() != whole
    for reading in (read_verified_card, verify, Predictor):
        with pytest.raises(CardError, match=r"m\.onnx"):
            reading(sealed)
    sealed.write_bytes(whole)
    read_verified_card(sealed)


def test_a_weight_that_is_another_is_told_from_a_card_that_is(sealed):
    model = onnx.load(sealed)
    kernel = onnx.numpy_helper.to_array(model.graph.initializer[1]) * np.float32(-1)
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(kernel, "kernel"))
    onnx.save(model, sealed)
    with pytest.raises(DamagedError, match=r"m\.onnx is damaged, or was changed after it was exported \(the SHA-256"):
        Predictor(sealed)


def test_a_card_that_another_program_has_written_anew(sealed):
    model = onnx.load(sealed)
    model.metadata_props[0].value = json.dumps(json.loads(model.metadata_props[0].value), indent=1)
    onnx.save(model, sealed)
    with pytest.raises(DamagedError, match="does not end in its checksum"):
        read_verified_card(sealed)


def test_a_file_with_weights_beside_it(sealed):
    model = onnx.load(sealed)
    onnx.save_model(model, sealed, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(DamagedError):
        read_verified_card(sealed)


def test_a_file_is_read_once_for_each_state(sealed, readings):
    for _ in range(3):
        Predictor(sealed)
    assert len(readings) == 1
    os.utime(sealed, ns=(1, 1))
    Predictor(sealed)
    assert len(readings) == 2
    verify(sealed)
    assert len(readings) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of the last change of any kind")
def test_damage_with_the_time_set_back(sealed):
    read_verified_card(sealed)
    before = sealed.stat()
    data = bytearray(sealed.read_bytes())
    data[400] ^= 0x80
    with sealed.open("r+b") as file:
        file.write(data)
    os.utime(sealed, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedError):
        read_verified_card(sealed)


def test_the_fingerprint_comes_from_the_same_reading(sealed, monkeypatch):
    import hashlib

    from vertebra.cache import fingerprint

    wanted = hashlib.sha256(sealed.read_bytes()).hexdigest()
    read_verified_card(sealed)
    monkeypatch.delattr(hashlib, "file_digest")
    assert fingerprint(sealed) == wanted


def test_a_cache_that_cannot_be_written(sealed, cache, readings):
    cache.write_text("a file where the folder should be")
    read_verified_card(sealed)
    read_verified_card(sealed)
    assert len(readings) == 2


@pytest.mark.parametrize("note", ["", "[]", '{"state": 3}', '{"intact": true}'])
def test_a_note_that_is_damaged(sealed, cache, readings, note):
    read_verified_card(sealed)
    (kept,) = (cache / "intact").iterdir()
    kept.write_text(note)
    read_verified_card(sealed)
    assert len(readings) == 2


def test_what_is_kept_of_a_file_that_is_written_to_while_it_is_read(sealed, monkeypatch):
    """It counts for the state before, never for the one after."""
    whole, digests = sealed.read_bytes(), model_checksum._compute_digests

    def meanwhile(file, at):
        found = digests(file, at)
        sealed.write_bytes(whole[:400] + b"\xff" * 8 + whole[408:])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(model_checksum, "_compute_digests", meanwhile)
        read_verified_card(sealed)
    with pytest.raises(DamagedError):
        read_verified_card(sealed)


def test_a_file_from_before_there_were_checksums(tiny_model, readings):
    assert read_verified_card(tiny_model) == verify(tiny_model) == read_card(tiny_model)
    assert read_card(tiny_model).content_sha256 is None
    assert not readings


def test_a_card_without_room_for_a_checksum(tiny_model):
    for content in (tiny_model.read_bytes(), b"\x08\x09\x3a\x00"):
        with pytest.raises(ValueError, match="no place"):
            insert_checksum(content)
