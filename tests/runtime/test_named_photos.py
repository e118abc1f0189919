"""`vertebra.Photo`: bytes with a name, or why there are none; each is one result."""

import pickle
import tracemalloc

import pytest

import vertebra
from vertebra.errors import ImageError
from vertebra.runtime.predictor import Predictor


@pytest.fixture(scope="module")
def network(tiny_model):
    return Predictor(tiny_model, engine="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    import numpy as np
    from PIL import Image

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
