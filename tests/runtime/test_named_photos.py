"""`vertebra.Photo`: bytes with a name, or why there are none; each is one result."""

import io
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from watched_reads import watched

import vertebra
from vertebra.errors import ImageError, UsageError
from vertebra.runtime.predictor import Predictor


@pytest.fixture(scope="module")
def network(tiny_model):
    return Predictor(tiny_model, engine="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "1.png"
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(path)
    return path.read_bytes()


def given(content):
    yield vertebra.Photo("s3://bucket/a 1.png", content=content)
    yield vertebra.Photo("shard.tar::2.jpg", error="shard.tar::2.jpg is a link")
    yield vertebra.Photo("empty.jpg", content=b"")
    yield vertebra.Photo("cut.png", content=content[:100])
    yield vertebra.Photo("1.jpg", content=b"2.jpg")  # not taken for a path
    yield vertebra.Photo("s3://bucket/a 1.png", content=content)  # again


@pytest.mark.parametrize("as_list", [False, True])
def test_each_is_a_result_with_its_name_and_its_error(network, content, as_list):
    photos = given(content)
    results = list(network.predict_many(list(photos) if as_list else photos))
    assert [result.path for result in results] == [photo.path for photo in given(content)]
    first, link, empty, cut, text, again = results
    assert first.predictions == again.predictions == network.predict(content).predictions
    assert link.error == "shard.tar::2.jpg is a link"
    assert empty.error == "empty.jpg is empty"
    assert cut.error.startswith("cut.png is damaged or truncated")
    assert text.error.startswith("1.jpg is a text file, not an image")


def test_one_photo(network, content):
    assert network.predict(vertebra.Photo("a", content=content)).path == "a"
    with pytest.raises(ImageError, match="access is denied"):
        network.predict(vertebra.Photo("a", error="access is denied"))
    assert pickle.loads(pickle.dumps(vertebra.Photo("a", content=content))).content == content


def test_memory_does_not_grow_with_their_number(network, content):
    large = content + bytes(300_000)  # behind the end of the image
    tracemalloc.start()
    try:
        photos = (vertebra.Photo(str(n), content=large + b"%d" % n) for n in range(600))
        assert sum(result.error is None for result in network.predict_many(photos)) == 600
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60_000_000  # of 180 MB


# --- the content is what it is without a name -------------------------------------------------------------------------


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("listed", [list, iter])
def test_members_of_an_archive_that_share_its_file(tiny_model, tmp_path, listed):
    network = Predictor(tiny_model, engine="onnxruntime", threads=4)
    Watched, clashes = watched(io.FileIO)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for index, pixels in enumerate(PIXELS):
            member = tarfile.TarInfo(f"{index}.png")
            member.size = len(png(pixels))
            archive.addfile(member, io.BytesIO(png(pixels)))
    with Watched(tmp_path / "photos.tar") as file, tarfile.open(fileobj=file) as archive:
        members = archive.getmembers()
        clashes.clear()
        photos = [vertebra.Photo(member.name, content=archive.extractfile(member)) for member in members]
        results = list(network.predict_many(listed(photos)))
    assert [result.path for result in results] == [member.name for member in members]
    assert [result.predictions for result in results] == [network(pixels).predictions for pixels in PIXELS]
    assert clashes and not any(clashes)


def test_content_of_every_kind(network, tmp_path):
    torch = pytest.importorskip("torch")
    pixels, wanted = PIXELS[0], network(PIXELS[0]).predictions
    (tmp_path / "photo.png").write_bytes(png(pixels))
    contents = {
        "bytes": png(pixels),
        "bytearray": bytearray(png(pixels)),
        "memoryview": memoryview(png(pixels)),
        "file": io.BytesIO(png(pixels)),
        "only read": type("Upload", (), {"read": lambda self: png(pixels)})(),
        "PIL": Image.open(tmp_path / "photo.png"),
        "NumPy": pixels,
        "torch": torch.from_numpy(pixels).permute(2, 0, 1),
        "path": tmp_path / "photo.png",
        "text": str(tmp_path / "photo.png"),
    }
    photos = [vertebra.Photo(name, content=content) for name, content in contents.items()]
    for listed in (list, iter):
        results = list(network.predict_many(listed(photos)))
        assert [(result.path, result.error) for result in results] == [(name, None) for name in contents]
        assert all(result.predictions == wanted for result in results)
    grey = pixels[..., :1]
    assert network(vertebra.Photo("grey", content=grey)).predictions == network(grey).predictions
    assert network(vertebra.Photo(Path("a.png"), content=pixels)).path == "a.png"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": 17, "content": b""}, r"^the name of images\[1\] is 17; it must be text\. Write Photo\(str\(x\)"),
        ({"path": None}, r"^the name of images\[1\] is None"),
        (
            {"path": "17", "error": float("nan"), "content": b""},
            r"^the error of images\[1\], '17', is nan; .* text, or None",
        ),
        (
            {"path": "17", "content": PIXELS[0] / 255},
            r"photo '17' is a NumPy array float64 \(40, 50, 3\), and how floats",
        ),
        ({"path": "17", "content": PIXELS[0, ..., 0] / 255}, r"photo '17' is a NumPy array float64 \(40, 50\)"),
        ({"path": "17", "content": PIXELS[0].transpose(2, 0, 1)}, r"photo '17' .* channels are first"),
        ({"path": "17", "content": PIXELS[:2]}, r"photo '17' is a batch \(2, 40, 50, 3\); a Photo is one image"),
        ({"path": "17", "content": io.StringIO("text")}, r"photo '17' is a file that is open as text"),
        ({"path": "17", "content": [b""]}, r"photo '17' is of the type list"),
        ({"path": "17", "content": float("nan")}, r"photo '17' is nan; .* A missing value"),
        ({"path": "17", "content": "s3://bucket/17.png"}, r"photo '17' is s3://bucket/17\.png, and of addresses only"),
    ],
)
def test_fields_that_are_none(network, fields, message):
    photo = vertebra.Photo(**fields)
    with pytest.raises(UsageError, match=message):
        network.predict_many([PIXELS[0], photo])
    with pytest.raises(UsageError, match=message):
        list(network.predict_many(iter([PIXELS[0], photo])))
    with pytest.raises(UsageError, match=message.replace(r"images\[1\]", "the image")):
        network.predict(photo)


def test_one_image_of_several_frames_in_two_photos(network):
    file, frames = io.BytesIO(), [Image.fromarray(pixels) for pixels in PIXELS[:2]]
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    photos = [vertebra.Photo(name, content=image) for name, image in zip("ab", [Image.open(file)] * 2, strict=True)]
    with pytest.raises(UsageError, match=r"^images\[0\] and images\[1\] are one PIL image"):
        network.predict_many(photos)


def test_normalised_content(network):
    mean, std = (
        np.float32(values)[:, None, None] for values in (network.preprocessing.mean, network.preprocessing.std)
    )
    pixels = PIXELS[0, :32, :32]
    values = (np.float32(pixels).transpose(2, 0, 1) / np.float32(255) - mean) / std
    bare = network.predict(values, preprocessed=True).predictions
    good, bad = vertebra.Photo("good", content=values), vertebra.Photo("bad", error="bad is a link")
    assert network.predict(good, preprocessed=True).predictions == bare
    for listed in (list, iter):
        results = list(network.predict_many(listed([good, bad, values]), preprocessed=True))
        assert [(result.path, result.error) for result in results] == [
            *(("good", None), ("bad", "bad is a link"), ("image 2", None))
        ]
        assert results[0].predictions == results[2].predictions == bare
    with pytest.raises(ImageError, match="bad is a link"):
        network.predict(bad, preprocessed=True)


@pytest.mark.parametrize(
    "photo",
    [vertebra.Photo("a", content=png(PIXELS[0])), vertebra.Photo("a.png"), vertebra.Photo("a", content="a.png")],
)
def test_files_are_not_preprocessed(network, photo):
    for ask in (network.predict, lambda photo, **how: network.predict_many([photo], **how)):
        with pytest.raises(UsageError, match=r"allowed is float \(3, S, S\) .* Leave preprocessed out"):
            ask(photo, preprocessed=True)
