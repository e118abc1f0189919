"""The card: what it holds comes back, and what is no card is told from it."""

import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vertebra.card import (
    METADATA_KEY,
    Card,
    CardError,
    Decoding,
    Preprocessing,
    WeightSource,
    locate_card,
    parse_card,
    read_card,
)
from vertebra.cli.card import card_rows

CARD = Card(
    architecture="efficientnet_lite0",
    preprocessing=Preprocessing(224, 256, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    classes=("tench", "größer", "crane", "crane"),
    weights=WeightSource("EfficientNet_Lite0_Weights.IMAGENET1K_V1", "5" * 64, "https://example.org/a.pth"),
    metrics={"ImageNet-1K": {"acc@1": 75.1}},
    versions={"vertebra": "0.1.0"},
    licence="Apache-2.0",
    precision="int8",
    created="2025-01-31T12:00:00Z",
    temperature=1.25,
    threshold=0.3,
)


def varint(number):
    data = b""
    while number > 0x7F:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def block(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def model_bytes(metadata, graph=b"x" * 300):
    """A ModelProto by hand: version, producer, graph, opset (after the graph, as onnx writes it), metadata."""
    head = varint(1 << 3) + varint(10) + block(2, b"test") + block(7, graph) + block(8, b"\x10\x14")
    return head + b"".join(
        block(14, block(1, key.encode()) + block(2, value.encode())) for key, value in metadata.items()
    )


@pytest.fixture
def model_file(tmp_path):
    def write(data):
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("card", [CARD, Card("resnet18", Preprocessing(224)), replace(CARD, weights=None)])
def test_a_card_comes_back_equal(card):
    assert Card.from_json(card.to_json()) == card


def test_class_names_or_numbers():
    assert CARD.class_name(1) == "größer"
    assert Card("resnet18", Preprocessing(224)).class_name(1) == "1"


def test_unknown_keys_of_the_same_format_are_ignored():
    document = json.loads(CARD.to_json())
    document["colour"] = "blue"
    document["preprocessing"]["gamma"] = 2.2
    assert Card.from_json(json.dumps(document)) == CARD


def test_absent_optional_keys_get_their_defaults():
    document = json.loads(CARD.to_json())
    card = Card.from_json(
        json.dumps(
            {key: document[key] for key in ("format_version", "architecture")}
            | {"preprocessing": document["preprocessing"]}
        )
    )
    assert card == Card("efficientnet_lite0", CARD.preprocessing)


def test_a_card_of_a_newer_format_says_what_to_install():
    document = json.loads(CARD.to_json()) | {"format_version": 7, "versions": {"vertebra": "3.2.0"}, "classes": 5}
    with pytest.raises(CardError, match=r"m\.onnx has a card of format 7.*up to 3.*--upgrade 'vertebra>=3\.2\.0'"):
        Card.from_json(json.dumps(document), "m.onnx")
    with pytest.raises(CardError, match=r"pip install --upgrade 'vertebra'"):
        Card.from_json(json.dumps(document | {"versions": []}), "m.onnx")


def test_a_card_without_a_decoding_rule_is_of_the_first():
    document = json.loads(CARD.to_json())
    assert document["preprocessing"].pop("decoding") == {"rule": 2, "bits": None}
    card = Card.from_json(json.dumps(document))
    assert card.preprocessing.decoding == Decoding(rule=1)
    assert Card.from_json(card.to_json()) == card, "it stays of that rule when it is written again"


def test_only_a_card_with_bits_is_refused_by_readers_of_the_first_format():
    assert json.loads(CARD.to_json())["format_version"] == 1
    preprocessing = replace(CARD.preprocessing, decoding=Decoding(bits=12))
    for card in (Card("resnet18", preprocessing), replace(CARD, preprocessing=preprocessing)):
        assert json.loads(card.to_json())["format_version"] == 2
        assert Card.from_json(card.to_json()) == card


def test_a_card_that_squashes_is_refused_by_readers_that_would_crop():
    for bits in (None, 12):
        preprocessing = replace(CARD.preprocessing, decoding=Decoding(bits=bits), crop_mode="squash")
        card = Card("resnet18", preprocessing)
        assert json.loads(card.to_json())["format_version"] == 3
        assert Card.from_json(card.to_json()) == card
    document = json.loads(CARD.to_json())
    assert document["preprocessing"].pop("crop_mode") == "center"
    assert Card.from_json(json.dumps(document)) == CARD, "earlier cards have no crop_mode"
    document["preprocessing"]["crop_mode"] = "border"
    with pytest.raises(CardError, match=r"m\.onnx, preprocessing: crop_mode is 'border'; it must be center or squash"):
        Card.from_json(json.dumps(document), "m.onnx")


def test_a_decoding_rule_that_is_not_known_says_what_to_install():
    document = json.loads(CARD.to_json())
    document["preprocessing"]["decoding"]["rule"] = 9
    with pytest.raises(CardError, match=r"m\.onnx, preprocessing.*rule 9.*up to 2.*pip install --upgrade vertebra"):
        Card.from_json(json.dumps(document), "m.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"name": "resnet18"}'])
def test_what_is_no_card(text):
    with pytest.raises(CardError, match=r"notes is not a card.*Export the network again"):
        Card.from_json(text, "notes")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("architecture",), 3),
        (("architecture",), None),
        (("format_version",), "1"),
        (("format_version",), 0),
        (("format_version",), True),
        (("classes",), ["a", 1]),
        (("classes",), []),
        (("classes",), "abc"),
        (("precision",), "int4"),
        (("temperature",), 0),
        (("temperature",), "warm"),
        (("temperature",), -1),
        (("temperature",), 10**400),
        (("threshold",), -(10**400)),
        (("content_sha256",), "5" * 63),
        (("content_sha256",), "G" * 64),
        (("metrics",), {"ImageNet-1K": 75.1}),
        (("versions",), {"vertebra": {"a": 1}}),
        (("threshold",), 1.5),
        (("weights",), "DEFAULT"),
        (("weights", "sha256"), 5),
        (("metrics",), []),
        (("preprocessing",), None),
        (("preprocessing", "crop_size"), 224.0),
        (("preprocessing", "crop_size"), 0),
        (("preprocessing", "interpolation"), "lanczos"),
        (("preprocessing", "mean"), [0.5, "a", 0.5]),
        (("preprocessing", "std"), []),
        (("preprocessing", "std"), [0.2, 0, 0.2]),
        (("preprocessing", "std"), [0.2, -0.2, 0.2]),
        (("preprocessing", "std"), [1e-300, 0.2, 0.2]),
        (("preprocessing", "std"), [0.2, 0.2]),
        (("preprocessing", "std"), [True, True, True]),
        (("preprocessing", "mean"), [10**400, 0, 0]),
        (("preprocessing", "mean"), [0.5, [0.5], 0.5]),
        (("preprocessing", "crop_size"), 10**9),
        (("preprocessing", "crop_size"), -224),
        (("preprocessing", "crop_size"), True),
        (("preprocessing", "resize_size"), 10**400),
        (("preprocessing", "resize_size"), "256"),
        (("preprocessing", "decoding"), 2),
        (("preprocessing", "decoding", "rule"), 0),
        (("preprocessing", "decoding", "rule"), "2"),
        (("preprocessing", "decoding", "bits"), 7),
        (("preprocessing", "decoding", "bits"), 17),
        (("preprocessing", "decoding", "bits"), 12.0),
    ],
)
def test_a_value_that_is_not_allowed_is_named(path, value):
    document = json.loads(CARD.to_json())
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(CardError, match=rf"^m\.onnx.*{path[-1]} is .*; it must be"):
        Card.from_json(json.dumps(document), "m.onnx")


def with_text(key, text):
    """The card's JSON with a text, whatever it is, as the value of a key."""
    document = json.loads(CARD.to_json())
    document[key] = "?"
    return json.dumps(document).replace('"?"', text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_text("temperature", "NaN"), "NaN is no finite number"),
        (with_text("temperature", "-Infinity"), "-Infinity is no finite number"),
        (with_text("temperature", "1e999"), "1e999 is no finite number"),
        (with_text("temperature", "9" * 10_000), "is not JSON"),
        (with_text("temperature", f"{'9' * 4000}.0"), "is no finite number"),
        (with_text("metrics", "[" * 100_000 + "]" * 100_000), "is not JSON"),
        (with_text("metrics", '{"a":' * 100_000 + "1" + "}" * 100_000), "is not JSON"),
        (with_text("metrics", '{"a":' * 21 + "1" + "}" * 21), "more than 20 levels"),
        (with_text("licence", '"MIT", "licence": "GPL"'), "'licence' stands in it twice"),
        (with_text("metrics", '{"a": {"b": 1, "b": 2}}'), "'b' stands in it twice"),
        (with_text("classes", r'["a", "\ud83d"]'), "lone surrogate"),
        (with_text("metrics", r'{"\udc00": {}}'), "lone surrogate"),
    ],
    ids=range(12),
)
def test_json_that_leaves_something_open(text, message):
    with pytest.raises(CardError, match=message) as told:
        Card.from_json(text, "m.onnx")
    assert len(str(told.value)) < 300


def test_what_a_newer_card_tells_to_install_is_a_version():
    document = json.loads(CARD.to_json()) | {"format_version": 7, "versions": {"vertebra": "1'; echo '2"}}
    with pytest.raises(CardError, match=r"pip install --upgrade 'vertebra'$"):
        Card.from_json(json.dumps(document), "m.onnx")


def test_a_checksum_whose_key_is_damaged():
    text = replace(CARD, content_sha256="5" * 64).to_json()
    assert Card.from_json(text).content_sha256 == "5" * 64
    with pytest.raises(CardError, match=r"m\.onnx is damaged: .* checksum that is called 'contend_sha256'"):
        Card.from_json(text.replace("content_sha256", "contend_sha256"), "m.onnx")
    assert "content_sha256" not in CARD.to_json()


NUMBERS = st.integers() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=True, allow_infinity=True)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.just("5" * 64),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def paths(value, before=()):
    """Where something stands in a document: everything, from the whole to the last number."""
    yield before
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*before, key))


PATHS = list(paths(json.loads(replace(CARD, content_sha256="5" * 64).to_json())))


def changed(document, path, value):
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = changed(document[path[0]], path[1:], value)
    return copy


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(PATHS), ANYTHING), min_size=1, max_size=2))
@example([(("preprocessing", "std"), [0, 0, 0])])
@example([(("metrics",), {"a": {"b": [{}]}})])
@example([(("weights", "sha256"), math.nan)])
def test_whatever_a_card_says_it_is_read_or_refused(changes):
    document = json.loads(replace(CARD, content_sha256="5" * 64).to_json())
    for path, value in sorted(changes, key=lambda change: -len(change[0])):
        document = changed(document, path, value)
    try:
        card = Card.from_json(json.dumps(document), "m.onnx")
    except CardError as error:
        assert str(error).startswith("m.onnx") and len(str(error)) < 400
        return
    assert Card.from_json(card.to_json()) == card
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in card_rows(card))
    assert min(card.preprocessing.std) > 0 and 0 < card.preprocessing.crop_size < 20_000


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.integers(0, 500), st.integers(0, 60))
def test_whatever_bytes_a_file_has_it_is_read_or_refused(inserted, at, dropped):
    whole = model_bytes({"author": "me", METADATA_KEY: Card("resnet18", Preprocessing(224)).to_json()}, graph=b"x" * 20)
    file = io.BytesIO(whole[:at] + inserted + whole[at + dropped :])
    try:
        parse_card(file, locate_card(file), "m.onnx")
    except (CardError, ValueError):
        return
    assert file.getvalue().count(METADATA_KEY.encode()) >= 1


def test_a_file_with_two_cards(model_file):
    both = model_bytes({METADATA_KEY: CARD.to_json()}) + block(14, block(1, METADATA_KEY.encode()) + block(2, b"{}"))
    with pytest.raises(CardError):
        read_card(model_file(both))


def test_a_card_that_is_too_large(model_file, monkeypatch):
    monkeypatch.setattr("vertebra.card._MAX_BYTES", 100)
    with pytest.raises(CardError, match=r"a card of [\d,]+ bytes, and at most 100 are allowed"):
        read_card(model_file(model_bytes({METADATA_KEY: CARD.to_json()})))


@pytest.mark.parametrize("value", [b"\x09\x01\x02", b"\x0d\x01"])
def test_a_number_that_is_cut_short(model_file, value):
    with pytest.raises(CardError, match="not an ONNX file"):
        read_card(model_file(model_bytes({METADATA_KEY: CARD.to_json()}) + value))


def test_a_key_that_is_missing_is_named():
    document = json.loads(CARD.to_json())
    del document["architecture"]
    with pytest.raises(CardError, match="no architecture"):
        Card.from_json(json.dumps(document))


def test_the_card_of_a_file(model_file):
    path = model_file(model_bytes({"author": "me", METADATA_KEY: CARD.to_json(), "other": ""}))
    assert read_card(path) == CARD
    assert read_card(str(path)) == CARD


def test_an_onnx_file_without_a_card(model_file):
    with pytest.raises(CardError, match=r"m\.onnx is an ONNX file without a card.*vertebra export"):
        read_card(model_file(model_bytes({"author": "me"})))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"hello, this is a text",
        b"\xff\xd8\xff\xe0" + b"\x07" * 40,
        b"PK\x03\x04",
        b"\x80" * 20,
        b"\x08\x0a",
        b"\x70\x01",  # the metadata as a number
        b"\x71" + b"\x01" * 8,  # as one of eight bytes
        b"\x72\x02\x08\x01",  # their key as one
    ],
)
def test_what_is_no_onnx_file(model_file, data):
    with pytest.raises(CardError, match=r"m\.onnx is not an ONNX file"):
        read_card(model_file(data))


def test_a_file_cut_short_at_any_byte_is_told(model_file):
    whole = model_bytes({METADATA_KEY: Card("resnet18", Preprocessing(224)).to_json()}, graph=b"x" * 20)
    for length in range(len(whole)):
        with pytest.raises(CardError):
            read_card(model_file(whole[:length]))


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(CardError, match="no such file"):
        read_card(tmp_path / "absent.onnx")
    with pytest.raises(CardError, match="is a folder"):
        read_card(tmp_path)


def test_reading_a_card_imports_nothing_heavy(model_file):
    path = model_file(model_bytes({METADATA_KEY: CARD.to_json()}))
    code = (
        f"import sys; from vertebra.card import read_card; print(read_card({str(path)!r}).architecture);"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'PIL', 'google.protobuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["efficientnet_lite0", "[]"]
