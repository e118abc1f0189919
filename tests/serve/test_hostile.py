"""Whatever is sent, the answer is one that is described: never a 500, never none, and the server is as before."""

import collections
import contextlib
import io
import json
import random
import re
import socket
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis.errors import Unsatisfiable
from PIL import Image
from waiting import until

from vertebra.synthetic_photos import synthetic_photos

ALLOWED = {200, 400, 408, 413, 415, 422}


# --- the described API ------------------------------------------------------------------------------------------------


@pytest.mark.no_cover  # what they send is made by a library that takes twice as long where its lines are counted
@pytest.mark.parametrize("most", [2, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kinds", [["positive"], ["negative"]], ids=["right", "wrong"])
def test_every_answer_is_a_described_one(client, kinds, most):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    conformance = schemathesis.checks
    checks = [
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_schema_conformance,
    ]
    document = schemathesis.openapi.from_url(f"{client.service.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        mode = schemathesis.GenerationMode(kinds[0])
        cases = operation.as_strategy(generation_mode=mode)

        @examples(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=cases)
        def check(case):
            answer = case.call(timeout=20)
            assert answer.status_code != 500, answer.text
            if answer.status_code == 503:  # a deadline of a millisecond
                assert answer.headers["retry-after"]
            else:
                case.validate_response(answer, checks=checks)

        try:
            check()
        except Unsatisfiable:  # where there are no parameters, none can be wrong
            assert mode == schemathesis.GenerationMode.NEGATIVE


# --- images -----------------------------------------------------------------------------------------------------------


def sound():
    """A small file of each format."""
    picture = Image.fromarray(synthetic_photos(2, 48)[1])
    found = {}
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("TGA", {}),
        ("JPEG2000", {}),
        ("AVIF", {}),
    ):
        file = io.BytesIO()
        try:
            picture.save(file, kind, **options)
        except (OSError, KeyError):  # this Pillow is built without it
            continue
        found[f"{kind}{len(found)}"] = file.getvalue()
    return list(found.values())


def png(width, height, rows=b""):
    """A PNG whose header says what one likes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def bombs():
    """Small files that would become large, or take long."""
    yield png(60_000, 60_000)
    yield png(2**31 - 1, 1)
    yield png(0, 0)
    yield png(100, 100, bytes(20_000_000))  # far more rows than there are
    yield (
        b"GIF89a\xff\xff\xff\xff\x80\x00\x00"
        + bytes(6)
        + b"\x2c"
        + bytes(4)
        + b"\xff\xff\xff\xff\x00\x02\x02D\x01\x00;"
    )
    yield b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 50_000, -50_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield b"P6 99999 99999 255\n" + bytes(100)
    yield b"P6 " + b"9" * 5000 + b" 1 255\n"
    file = io.BytesIO()
    Image.new("RGB", (900, 900)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    yield content[:-2] + scan * 2000 + content[-2:]
    file = io.BytesIO()
    Image.new("RGB", (1, 60_000)).save(file, "PNG")
    yield file.getvalue()  # a strip: gigabytes once its shorter side is resized
    frames = [Image.new("P", (300, 300), number % 256) for number in range(40)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    yield file.getvalue()


def no_images(whole):
    yield b""
    yield b"\x00" * 1000
    yield b"\xff" * 1000
    yield b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    yield b"<!DOCTYPE x [<!ENTITY a 'b'><!ENTITY c '&a;&a;'>]><x>&c;</x>"
    yield b"%PDF-1.7\n1 0 obj"
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) run"
    yield b"PK\x03\x04" + bytes(200)
    yield b"\x7fELF" + bytes(200)
    yield b"\x80\x04cos\nsystem\n(S'true'\ntR."  # a pickle
    yield from (one + two for one in whole[:4] for two in (b"PK\x03\x04", b"<html><script>1</script>", *whole[:2]))
    yield b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)"


def mutated(whole, count, seed=0):
    """Sound files, spoilt in one way or in several."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            kind = chance.randrange(7)
            place = chance.randrange(max(1, len(data)))
            if kind == 0:
                del data[place:]
            elif kind == 1:
                for _ in range(chance.choice((1, 3, 20))):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            elif kind == 2 and len(data) > 40:  # where sizes and types stand
                data[chance.randrange(40)] = chance.choice((0, 1, 127, 128, 255))
            elif kind == 3:
                del data[place : place + chance.randrange(1, 60)]
            elif kind == 4:
                data[place:place] = chance.randbytes(chance.randrange(1, 60))
            elif kind == 5:
                other = chance.choice(whole)
                data[place:] = other[chance.randrange(len(other)) :]
            elif kind == 6 and len(data) > place + 4:
                data[place : place + 4] = struct.pack(">I", chance.choice((0, 2**31 - 1, 2**32 - 1, 65_536)))
            if not data:
                data = bytearray(b"\x00")
        yield bytes(data)


def send(client, images, ways=3):
    """Each image by another way; statuses come back."""
    statuses = {}
    for number, image in enumerate(images):
        if number % ways == 0:
            answer = client.post("/v1/predict?top=1", image, "application/octet-stream")
        elif number % ways == 1:
            answer = client.files("/v1/predict?top=1", ("a.png", image), ("b", image))
        else:
            answer = client.post("/v1/explain", image, "image/jpeg")
        assert answer.status in ALLOWED, (number, answer.status, answer.body[:300], image[:60])
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    return statuses


def test_images_of_every_kind_of_badness(client, pngs):
    whole = sound()
    statuses = send(client, [*bombs(), *no_images(whole), *whole, *mutated(whole, 300)])
    assert statuses[200] > 20 and statuses[422] > 100
    assert client.post("/v1/predict", pngs[0]).status == 200
    assert client.service.dispatcher.body_reader.num_bytes == 0


def form_bodies(png, count, seed=1):
    """Multipart bodies, spoilt."""
    chance = random.Random(seed)
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    right = (head + png + b"\r\n") * 2 + b"--b--\r\n"
    yield b"--b" * 20_000
    yield b"--b\r\n" * 20_000
    yield (b"--b\r\n" + b"X: y\r\n" * 3000 + b"\r\n\r\n--b--").ljust(100_000)
    yield b'--b\r\nContent-Disposition: form-data; filename="' + b"\\" * 50_000 + b"\r\n\r\nx\r\n--b--"
    yield b"--b\r\nContent-Disposition: form-data" + b"; a=b" * 1500 + b"\r\n\r\nx\r\n--b--"
    for encoded in (b"filename*=UTF-8''%ff%fe", b"filename*=x-none''a", b"filename*='", b'filename="\xff\xfe"'):
        yield b"--b\r\nContent-Disposition: form-data; " + encoded + b"\r\n\r\nx\r\n--b--"
    for _ in range(count):
        data = bytearray(right)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(min(len(data), 400))
            choice = chance.randrange(3)
            if choice == 0:
                data[place] = chance.randrange(256)
            elif choice == 1:
                del data[place : place + chance.randrange(1, 30)]
            else:
                data[place:place] = chance.choice((b"--b", b"\r\n", b"\r\n\r\n", b"--b--", b'"', b"\x00", b";"))
        yield bytes(data)


@pytest.mark.parametrize(
    ("encoded", "status"),
    [
        ("UTF-8''na%C3%AFve.jpg", 200),
        ("utf-8'de'na%c3%afve.jpg", 200),
        ("ISO-8859-1''na%EFve.jpg", 200),
        ("UTF-8''na%C3%AFve%zz.jpg", 400),
        ("UTF-8''a%", 400),
        ("UTF-8''na%EFve.jpg", 400),
        ("UTF-8''%ed%a0%80", 400),
        ("utf-16''a%00", 400),
        ("idna''a..b", 400),
        ("punycode''%ff", 400),
        ("undefined''a", 400),
        ("hex''00", 400),
        ("x%00y''a", 400),
        ("\x00''a", 400),
        ("''a", 400),
        ("a.jpg", 400),
        ("'", 400),
    ],
)
def test_names_in_other_alphabets(client, pngs, encoded, status):
    head = f"--b\r\nContent-Disposition: form-data; name=files; filename=x.png; filename*={encoded}\r\n\r\n".encode()
    answer = client.post("/v1/predict", head + pngs[0] + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")
    assert answer.status == status
    if status == 200:
        assert answer.json["results"][0]["name"] == "naïve.jpg"
    else:
        assert "filename* is" in answer.message and "plain filename" in answer.message


def test_forms_of_every_kind_of_badness(client, pngs):
    for number, body in enumerate(form_bodies(pngs[0], 200)):
        answer = client.post("/v1/predict", body, "multipart/form-data; boundary=b")
        assert answer.status in ALLOWED, (number, answer.status, answer.body[:300])
    for kind in (
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 200,
        "multipart/form-data;;;=",
    ):
        assert client.post("/v1/predict", b"--b--", kind).status == 400


@pytest.mark.parametrize(
    ("bad", "message"),
    [(b"\r\n--bX" * 20_000, "more than 8 images"), (b"x\r\n--b" + b" " * 100_000, "64 blanks or more")],
)
def test_forms_that_are_slow_to_parse_are_refused_before(client, monkeypatch, bad, message):
    monkeypatch.setattr("vertebra.serve.request_images.MultipartParser", None)  # is not reached
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    answer = client.post("/v1/predict", head + bad + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")
    assert answer.status in (400, 422) and message in answer.message


def test_an_extended_name_inside_a_name(client, pngs):
    head = b'--b\r\nContent-Disposition: form-data; name=files; filename="a; filename*=x.png"\r\n\r\n'
    answer = client.post("/v1/predict", head + pngs[0] + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")
    assert answer.json["results"][0]["name"] == "a; filename*=x.png"


# --- requests ---------------------------------------------------------------------------------------------------------

PATHS = (
    "/ /healthz /v1/models /v1/models/tiny/card /v1/models/%ff/card /v2/models/tiny /docs /metrics * // /%00 http://x/y"
)
POSTED = "/v1/predict /v1/embed /v1/explain /v2/models/tiny/infer /v2/models/none/infer /healthz"
NAMES = (
    "Host Origin Authorization X-API-Key X-Deadline-Ms Content-Type Content-Encoding Connection Upgrade Expect Range "
    "Transfer-Encoding Content-Length Inference-Header-Content-Length If-None-Match X-Forwarded-Host X-Forwarded-Proto "
    "Access-Control-Request-Method Forwarded Cookie"
)
VALUES = (
    '|0|-1|7|99999999999999999999|1e9|\xb2|%ff|%00|\xe9|http://[|http://]:x|[::1|[::1]:1|localhost:99999|a@b|,|;;=|"|\\|'
    "close|upgrade|h2c|websocket|100-continue|chunked|gzip, chunked|Bearer|Basic x|null|application/json; charset=x|"
    f'multipart/form-data; boundary="b|bytes=0-|W/"x"|https|javascript:|{"x" * 3000}|{"x" * 70_000}'
)
CHARSETS = "UTF-8''%e9 utf-16''%00a idna''a..b punycode''%ff undefined''a hex''0 x' ' unicode_escape''\\N{x} \xff''"
KEYS = "images data name model top inputs outputs shape datatype parameters binary_data_size binary_data id"
LEAVES = (
    None,
    True,
    0,
    -1,
    3072,
    0.5,
    1e308,
    10**30,
    "",
    "image",
    "UINT8",
    "embedding",
    "AAAA",
    "\x00",
    "\U0001f600",
    "tiny",
)


def junk(chance, depth=0):
    """Something that JSON can hold, of the names and values that are looked for."""
    kind = chance.randrange(8)
    if kind < 3 or depth > 3:
        return chance.choice(LEAVES)
    if kind < 5:
        return [junk(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS.split()): junk(chance, depth + 1) for _ in range(chance.randrange(5))}


def tensor(chance):
    """An almost right inference request."""
    rows = synthetic_photos(1, 32)
    found = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": rows.tolist()}
    if chance.random() < 0.5:
        found.pop("data")
        found["parameters"] = {"binary_data_size": 3072}
    document = {"inputs": [found], "outputs": [{"name": "features", "parameters": {"binary_data": True}}]}
    for where in (found, document, document):
        if chance.random() < 0.4:
            where[chance.choice([*where, "id", "parameters"])] = junk(chance)
    return json.dumps(document).encode()


def request_body(chance, png):
    """(bytes, headers)."""
    kind = chance.randrange(5)
    if kind == 0:
        return png, [("Content-Type", "image/png")]
    if kind == 1:
        name = chance.choice(("filename=a.png", "filename", f"filename*={chance.choice(CHARSETS.split())}", "name=top"))
        part = f"--b\r\nContent-Disposition: form-data; name=files; {name}\r\n\r\n".encode("latin-1")
        end = chance.choice((b"\r\n--b--\r\n", b"\r\n--b", b""))
        return part + png + end, [("Content-Type", "multipart/form-data; boundary=b")]
    if kind == 2:
        images = {"images": [junk(chance), {"data": "AAAA"}]} | {"top": junk(chance), "model": junk(chance)}
        return json.dumps(images).encode(), [("Content-Type", "application/json")]
    head = tensor(chance)
    length = chance.choice((len(head), len(head), 0, len(head) + 1, 10**9, -1, "x", "\xb2"))
    binary = [("Inference-Header-Content-Length", str(length))] if kind == 3 else []
    return head + bytes(3072) * (kind == 3), [("Content-Type", "application/json"), *binary]


def raw_request(chance, png):
    """The bytes of one request that is wrong in some way, or in none."""
    body, headers = request_body(chance, png)
    method, path = chance.choice(
        (("POST", chance.choice(POSTED.split())),) * 4 + (("GET", chance.choice(PATHS.split())),)
    )
    if any(name.startswith("Inference") for name, _ in headers):
        path = "/v2/models/tiny/infer"
    if chance.random() < 0.1:
        method = chance.choice(("HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "PRI", "get"))
    if chance.random() < 0.3:
        fields = [
            f"{chance.choice(('top', 'model', 'index', 'layer'))}={chance.choice(VALUES.split('|'))[:200]}"
            for _ in range(2)
        ]
        path += "?" + "&".join(fields).replace(" ", "%20")
    headers = [("Host", "localhost"), *headers]
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        headers.insert(chance.randrange(3), (chance.choice(NAMES.split()), chance.choice(VALUES.split("|"))))
    if chance.random() < 0.3:
        headers.append(("Transfer-Encoding", "chunked"))
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        body = chunks + chance.choice(
            (b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n")
        )
    else:
        headers.append(("Content-Length", str(len(body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    found = f"{method} {path} HTTP/{chance.choice(('1.1', '1.1', '1.0', '9'))}\r\n{lines}\r\n".encode("latin-1") + body
    return next(mutated([found], 1, chance.random())) if chance.random() < 0.1 else found


@pytest.fixture
def told(serving, caplog):
    """`told(client, requests)` → the statuses; never a 500, no traceback in the log, nothing left behind."""

    def progress(client, *sent):
        last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
            found = b""
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"".join(sent) + last)
                while more := connection.recv(65_536):
                    found += more
        codes = re.findall(rb"HTTP/1.1 (\d{3}) ", found)
        assert codes and b"500" not in codes, (codes, sent)
        assert not [record for record in caplog.records if record.exc_info], sent
        return codes

    yield progress
    caplog.clear()


def left_behind(client):
    return client.service.dispatcher.body_reader.num_bytes or client.service.server.server_state.connections


@pytest.mark.parametrize("changes", [{}, {"host": "0.0.0.0", "no_auth": True}, {"cors": ("*",)}], ids=str)
def test_requests_of_every_kind_of_badness(serving, pngs, told, changes):
    """Several on a connection."""
    client = serving(read_seconds=0.2, **changes)
    chance = random.Random(len(str(changes)))
    statuses = collections.Counter()
    for _ in range(150):
        statuses.update(told(client, *(raw_request(chance, pngs[0]) for _ in range(chance.choice((1, 1, 2))))))
    assert min(statuses[code] for code in (b"200", b"400", b"404", b"422")) > 10, statuses
    until(lambda: not left_behind(client))


@pytest.mark.parametrize("name", NAMES.split())
def test_headers_of_every_kind_of_badness(client, pngs, told, name):
    path, body = "/v1/predict", pngs[0]
    if name.startswith("Inference"):
        path, body = "/v2/models/tiny/infer", b"{}"
    for value in VALUES.split("|"):
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: image/png", f"Content-Length: {len(body)}"]
        lines = [line for line in lines if not line.startswith(name)]
        told(client, "\r\n".join([*lines, f"{name}: {value}", "", ""]).encode("latin-1") + body)
    until(lambda: not left_behind(client))


@pytest.mark.slow
def test_ten_thousand_images_and_no_growth_of_memory(started):
    """Against a process of its own with the usual limits: memory after all of them is that after a fifth."""
    client, process = started()
    whole = sound()
    large = [png(7000, 7000, bytes(7000 * 21_001)), png(9000, 9000, bytes(9000 * 27_001))]
    sizes, statuses = [], {}
    for turn in range(10):
        batch = [*large, *bombs(), *no_images(whole), *mutated(whole, 970, seed=turn)]
        for status, count in send(client, batch).items():
            statuses[status] = statuses.get(status, 0) + count
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        sizes.append(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")))
    assert process.poll() is None
    assert sum(statuses.values()) >= 10_000 and statuses[200] > 1_000
    print(statuses, sizes)  # noqa: T201
    assert sizes[-1] < sizes[1] + 50, sizes
