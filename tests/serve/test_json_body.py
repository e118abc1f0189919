"""JSON of any size is read in pieces that no other request notices, and means what it meant as a whole."""

import asyncio
import base64
import json
import random
import threading
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from vertebra.serve import json_body
from vertebra.serve.api_errors import ApiError
from vertebra.serve.json_body import (
    LARGE,
    Data,
    decode_base64,
    encode_numbers,
    in_thread_if_large,
    parse_json,
    parse_uint8,
)


def entry(text, key="images"):
    """The `data` of the one entry of a body in which it stands as `text`."""
    text = text.encode() if isinstance(text, str) else text
    (found,) = parse_json(b'{"%s": [{"name": "a", "data": %s, "after": [1, 2]}]}' % (key.encode(), text), 1)[key]
    assert found["name"] == "a" and found["after"] == [1, 2]
    return found["data"]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 3 * LARGE // 4, 3 * LARGE // 4 + 1, 200_001])
@pytest.mark.parametrize("write", ["plain", "url", "php", "net", "escapes", "lines", "windows"])
def test_base64_is_what_it_was(size, write):
    content = random.Random(size).randbytes(size)
    text = base64.b64encode(content).decode()
    text = {
        "plain": text,
        "url": "data:image/png;base64," + text,
        "php": text.replace("/", "\\/"),
        "net": text.replace("+", "\\u002B"),
        "lines": base64.encodebytes(content).decode().replace("\n", "\\n"),
        "windows": "\\r\\n".join(text[place : place + 64] for place in range(0, len(text), 64)),
        "escapes": "".join(f"\\u{ord(each):04x}" for each in text),
    }[write]
    assert decode_base64(entry(f'"{text}"')) == content


@pytest.mark.parametrize(
    "text",
    [
        *(
            "A",
            "AAA",
            "A===",
            "AA=A",
            "AA==AAAA",
            "é",
            "AAAA AAAA",
            "AAAA\n",
            "A\\n",
            "\\ud800",
            "AA\\",
            "data:;base64",
        ),
        *("A" * LARGE + "A===", "A" * (LARGE - 1) + "=" + "AAAA", "*" * LARGE),
    ],
)
def test_what_is_no_base64(text):
    with pytest.raises(ValueError):
        decode_base64(Data(text.encode(), 0, len(text.encode()), is_string=True))


def written(values, shape):
    """Ways to write an array that mean the same."""
    flat, nested = values.ravel().tolist(), values.reshape(shape).tolist()
    yield from (json.dumps(each, separators=(",", ":")) for each in (flat, nested))
    yield from (json.dumps(each) for each in (flat, nested))
    yield json.dumps(nested, indent=1)


@pytest.mark.parametrize("shape", [[1], [1, 1, 1, 3], [2, 3, 5, 3], [3, 100, 100, 3]])
def test_numbers_are_what_they_were(shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for text in written(values, shape):
        found = parse_uint8(entry(text, "inputs"), shape)
        assert found.dtype == np.uint8 and (found == values).all() and found.shape == tuple(shape)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "[1,2,3]", "[1,2,3,4,5]", "[1,2,3,256]", "[1,2,3,-1]", "[1,2,3,4.0]", "[1,2,3,4e0]", "[1,2,3,true]"),
        *(
            "[1,2,3,04]",
            "[1,2,,3]",
            "[,1,2,3]",
            "[1,2,3,]",
            "[1 2,3,4,5]",
            "[1,2 ,3 4]",
            "[1,2,3,99999999999999999999]",
        ),
        *("[[1,2],[3]]", "[[1,2,3,4]]", "[[1],[2],[3],[4]]", "[[1,2],3,4]", "[1[,2],[3,4]]", "[[1,2],[3,4]5]"),
        *("[[1,2][,3,4]]", "[[1,2] 3,[4]]", "[[[1,2],[3,4]]]", "[[1,2],[3,null]]", "[1,2,3,4][", "]1,2,3,4["),
    ],
)
def test_what_are_no_such_numbers(text):
    with pytest.raises((ValueError, TypeError)):
        parse_uint8(Data(text.encode(), 0, len(text), is_string=False), [2, 2])
    with pytest.raises((ValueError, TypeError)):  # no comma, for as long as a piece is
        parse_uint8(Data(b" " * 200_000, 0, 200_000, is_string=False), [2, 2])


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"inputs": [{"data": ["a", "b"]}]}', ["a", "b"]),
        ('{"inputs": [{"data": [{"a": 1}]}]}', [{"a": 1}]),
        ('{"inputs": [{"data": [[1, "]"], [2]]}]}', [[1, "]"], [2]]),
        ('{"inputs": [{"data": 5}]}', 5),
        ('{"inputs": [{"data": null}]}', None),
        ('{"inputs": [{"my\\"data": "x", "data": {}}]}', {}),
    ],
)
def test_data_of_other_kinds_stay(text, data):
    (found,) = parse_json(text.encode(), 1)["inputs"]
    assert found["data"] == data
    assert found.get('my"data', "x") == "x"


def test_what_is_no_object():
    for body, status, message in (
        (b"", 400, "not JSON"),
        (b'{"images": [{"data": "AAAA}]}', 400, "not JSON"),
        (b'{"images": [{"data": "AA\\"AA"}]}', 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"[1]", 422, "of type list; it must be an object"),
        (b'"data"', 422, "of type str"),
        (b'{"images": [' + b"{}," * 200_000 + b"{}]}", 413, "600,016 bytes besides its data"),
        (b'{"images": [' + b'{"data":""},' * 200_000 + b"{}]}", 413, "at most 264,192 are allowed"),
        (b'{"a": "' + b"a" * 300_000 + b'"}', 413, "besides its data"),
    ):
        with pytest.raises(ApiError) as caught:
            parse_json(body, 2)
        assert caught.value.status == status and message in caught.value.message, caught.value.message


def test_many_small_data_have_room():
    body = json.dumps({"images": [{"name": "x" * 900, "data": "AAAA" * 250} for _ in range(1000)]}).encode()
    assert len(parse_json(body, 1000)["images"]) == 1000
    with pytest.raises(ApiError, match="besides its data"):
        parse_json(body, 64)


def test_marks_cannot_be_sent(monkeypatch):
    monkeypatch.setattr(json_body.secrets, "token_hex", lambda count: "a" * 2 * count)
    found = parse_json(b'{"images": [{"x": {"data": "%s:0"}, "data": "AAAA"}], "data": "top"}' % (b"a" * 32), 1)
    assert isinstance(found["images"][0]["data"], Data)
    assert json_body.secrets.token_hex(16) == "a" * 32
    monkeypatch.undo()
    assert len({json_body.secrets.token_hex(16) for _ in range(9)}) == 9


def test_numbers_are_written_as_they_are():
    for count in (0, 1, LARGE // 4, LARGE // 4 + 1, 50_000):
        values = np.random.default_rng(0).normal(size=count).astype(np.float32)
        assert json.loads(encode_numbers(values)) == orjson.loads(orjson.dumps(values.tolist())) or np.array_equal(
            np.array(json.loads(encode_numbers(values)), np.float32), values
        )


def test_much_work_is_a_thread_s():
    async def where(size):
        return await in_thread_if_large(size, threading.current_thread)

    assert asyncio.run(where(LARGE)) is threading.current_thread()
    assert asyncio.run(where(LARGE + 1)) is not threading.current_thread()


@pytest.fixture
def parsed(monkeypatch):
    """How many bytes orjson was given at a time, and by which thread: no other runs meanwhile."""
    found = []

    def loads(data):
        found.append((len(data), threading.current_thread().name))
        return orjson.loads(data)

    monkeypatch.setattr(json_body, "orjson", SimpleNamespace(**vars(orjson) | {"loads": loads}))
    return found


def test_large_bodies_do_not_hold_the_event_loop(serving, pngs, parsed):
    client = serving(max_bytes=4_000_000, max_images=64, queue=64)
    loop = client.service._thread.name
    values = np.zeros((64, 32, 32, 3), np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [64, 32, 32, 3]}
    many = {"inputs": [{**tensor, "data": values.tolist()}], "outputs": [{"name": "features"}]}
    text = base64.b64encode(pngs[0] + bytes(2_000_000)).decode().replace("A", "\\u0041", 9)
    for path, document in (("/v2/models/tiny/infer", many), ("/v1/predict", {"images": [{"data": text}]})):
        parsed.clear()
        body = json.dumps(document).replace("\\\\u", "\\u").encode()
        assert len(body) > 500_000 and client.post(path, body, "application/json").status == 200
        assert len(parsed) > 5 and max(size for size, _ in parsed) <= LARGE + 2
        assert loop not in {thread for _, thread in parsed}
