"""What `predict` and `predict_many` take: the same pixels give the same result, and what is no image is refused."""

import base64
import io
import os
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageSequence
from watched_reads import watched

from vertebra.errors import ImageError, UsageError
from vertebra.runtime.photo_paths import photos as photos_of_command
from vertebra.runtime.predictor import Predictor
from vertebra.synthetic_photos import synthetic_photos

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def pixels():
    return np.ascontiguousarray(synthetic_photos(2, 60)[1][:, :50])  # (60, 50, 3)


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory):
    """Two photos, one more below, a text."""
    found = tmp_path_factory.mktemp("photos")
    (found / "below").mkdir()
    for index, name in enumerate(("b.png", "a.png", "below/c.png")):
        Image.fromarray(np.roll(pixels, 9 * index, axis=0)).save(found / name)
    (found / "notes.txt").write_text("no photo")
    return found


@pytest.fixture(scope="module")
def network(tiny_model):
    return Predictor(tiny_model, engine="onnxruntime", threads=1)


def same(result, other):
    return result.predictions == other.predictions and np.array_equal(result.embedding, other.embedding)


def upload(content, read=None):
    """Something with a `read` and nothing else."""
    return type("Upload", (), {"read": read or (lambda self: content)})()


def archive():
    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    return zipfile.ZipFile(content)


# --- the same pixels --------------------------------------------------------------------------------------------------


def test_one_photo_in_every_form(network, pixels, folder):
    path = folder / "b.png"
    content, wanted = path.read_bytes(), network.predict(str(path), embed=True)
    first = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = {
        "Path": path,
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "BytesIO": io.BytesIO(content),
        "only read": upload(content),
        "PIL": Image.open(path),
        "PIL in memory": Image.fromarray(pixels),
        "NumPy": pixels,
        "of OpenCV": pixels[..., ::-1][..., ::-1],
        "Fortran order": np.asfortranarray(pixels),
        "torch": first,
        "torch contiguous": first.contiguous(),
        "subclass of a tensor": torch.nn.Parameter(first, requires_grad=False),
    }
    forms["BytesIO"].name = "<response>"
    with path.open("rb") as file:
        forms["file"] = file
        for name, form in forms.items():
            result = network(form, embed=True)
            assert same(result, wanted), name
            assert result.path == (str(path) if name in ("Path", "PIL", "file") else "image"), name
    assert network(pixels[..., ::-1]).predictions != wanted.predictions  # blue first is another picture


def test_arrays_of_other_channels_are_as_files_of_them(network, pixels, tmp_path):
    rgba = np.dstack([pixels, pixels[..., 0]])
    for name, array in (("grey", pixels[..., 0]), ("rgba", rgba)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        wanted = network(tmp_path / f"{name}.png", embed=True)
        first = torch.from_numpy(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
        assert same(network(array, embed=True), wanted) and same(network(first, embed=True), wanted)
    one = pixels[..., :1]
    assert same(network(one, embed=True), network(pixels[..., 0], embed=True))
    assert same(network(torch.from_numpy(one.transpose(2, 0, 1)), embed=True), network(one, embed=True))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_images_are_as_their_files(network, pixels, tmp_path, mode):
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    else:
        picture = picture.quantize(16) if mode == "P" else picture.convert("RGBA").convert(mode)
    path = tmp_path / "photo.tif"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.save(path, exif=exif)
    wanted = network(path, embed=True)
    with Image.open(path) as opened:
        result = network(opened, embed=True)
        assert same(result, wanted) and same(network(opened, embed=True), wanted) and result.path == str(path)
    with path.open("rb") as file, Image.open(file) as opened:
        opened.load()
        assert same(network(opened, embed=True), wanted) and same(network(opened.copy(), embed=True), wanted)
    with Image.open(path) as opened:
        opened.load()  # which Pillow 13.0 does wrongly of some
        try:
            assert same(network(opened, embed=True), wanted)
        except ImageError as error:
            assert "photo.tif is a TIFF that lies on its side" in str(error) and mode not in ("1", "RGB")


def test_a_grey_array_that_is_cut_out_of_another(network, pixels):
    assert same(network(pixels[::2, ::2], embed=True), network(pixels[::2, ::2].copy(), embed=True))


# --- many ------------------------------------------------------------------------------------------------------------


def test_many_in_every_form(network, pixels, folder):
    path = str(folder / "b.png")
    batch = np.stack([pixels, np.roll(pixels, 9, axis=0)])
    wanted = [network(image, embed=True) for image in batch]
    forms = {
        "list": list(batch),
        "tuple": tuple(batch),
        "generator": (image for image in batch),
        "NumPy": batch,
        "torch": torch.from_numpy(batch).permute(0, 3, 1, 2),
        "list of tensors": list(torch.from_numpy(batch).permute(0, 3, 1, 2)),
        "of objects": np.array([*batch, None], dtype=object)[:2],
        "paths": np.array([path, str(folder / "a.png")]),
        "map": map(Image.fromarray, batch),
        "batches": iter([batch[:1], batch[1:]]),
        "files": [(folder / name).open("rb") for name in ("b.png", "a.png")],
    }
    for name, form in forms.items():
        results = list(network.predict_many(form, embed=True))
        assert len(results) == 2 and all(map(same, results, wanted)), name


def test_a_folder_is_one_as_for_the_command(network, folder, monkeypatch):
    wanted = [photo.path for photo in photos_of_command([str(folder)])]
    assert [Path(path).name for path in wanted] == ["a.png", "b.png", "c.png"]
    for form in (str(folder), folder, [folder], (str(folder),), f"{folder}/**/*.png", iter([str(folder)])):
        assert [result.path for result in network.predict_many(form)] == wanted
    mixed = [str(folder / "b.png"), folder / "below", f"{folder}/a.*"]
    assert [Path(result.path).name for result in network.predict_many(mixed)] == ["b.png", "c.png", "a.png"]
    monkeypatch.chdir(folder)
    assert [result.path for result in network.predict_many("b.png")] == ["b.png"]
    (missing,) = network.predict_many([Path("*.png")])  # a Path is a name
    assert missing.error == "*.png: no such file"


def test_a_series_of_pandas_is_a_list(network, folder):
    pandas = pytest.importorskip("pandas")
    paths = [str(folder / "b.png"), str(folder / "a.png")]
    results = network.predict_many(pandas.Series(paths, index=[7, 3]))
    assert [result.path for result in results] == paths
    with pytest.raises(UsageError, match=r"^images\[1\] is nan; .* A missing value has to be left out"):
        network.predict_many(pandas.Series([paths[0], None]))
    with pytest.raises(UsageError, match=r"DataFrame; .* Give its column of paths"):
        network.predict_many(pandas.DataFrame({"path": paths}))


def test_what_a_generator_gives_is_read_before_it_goes_on(network, pixels, folder):
    frames = [np.roll(pixels, 3 * index, axis=0) for index in range(40)]

    def of_one_buffer():
        buffer = np.empty_like(pixels)
        for frame in frames:
            buffer[:] = frame
            yield buffer

    def painted_over():
        canvas = Image.new("RGB", (50, 60))
        for frame in frames:
            canvas.paste(Image.fromarray(frame))
            yield canvas

    def closed():
        for _ in range(3):
            with Image.open(folder / "b.png") as image:
                yield image
            with (folder / "b.png").open("rb") as file:
                yield file

    wanted = [network(frame, embed=True) for frame in frames]
    assert all(map(same, network.predict_many(of_one_buffer(), embed=True), wanted))
    assert all(map(same, network.predict_many(painted_over(), embed=True), wanted))
    results = list(network.predict_many(closed(), embed=True))
    assert len(results) == 6 and all(same(result, wanted[0]) for result in results)


def test_one_file_or_image_many_times(tiny_model, network, folder):
    """Several threads that read one open file at a time would get pieces of it."""
    wanted = network(folder / "b.png", embed=True)
    Watched, clashes = watched(io.BytesIO)
    file = Watched((folder / "b.png").read_bytes())
    parallel = Predictor(tiny_model, engine="onnxruntime", threads=4)
    with Image.open(file) as image:
        results = list(parallel.predict_many([file, image] * 10, embed=True))
    assert len(results) == 20 and all(same(result, wanted) for result in results) and not any(clashes)


def test_bits_hold_for_pil_images(tiny_model, pixels, tmp_path):
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(tmp_path / "photo.png")
    network = Predictor(tiny_model, engine="onnxruntime", threads=1, bits=12)
    with Image.open(tmp_path / "photo.png") as image:
        assert same(network(image, embed=True), network(tmp_path / "photo.png", embed=True))


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_integers_in_memory_whose_white_may_be_255_are_refused(network, pixels, mode):
    picture = Image.fromarray(pixels).convert("L")
    deep = picture.convert("I") if mode == "I" else Image.fromarray(np.asarray(picture, np.uint16))
    assert deep.mode == mode
    with pytest.raises(
        ImageError, match=rf"^image is a PIL image of mode {mode} .*x\.convert\('L'\) where white is 255"
    ):
        network(deep)
    (result,) = network.predict_many([deep])
    assert result.error.startswith(f"image 0 is a PIL image of mode {mode} with values from ")
    assert same(network(deep.convert("L"), embed=True), network(picture, embed=True))  # as it says
    whole = deep.point(lambda v: v * 257) if mode == "I" else Image.fromarray(np.asarray(picture, np.uint16) * 257)
    assert same(network(whole, embed=True), network(picture, embed=True))
    assert network(Image.new(mode, (8, 8))).predictions  # black either way
    assert network(deep.point(lambda v: v / 257).convert("L")).predictions  # where it is dark indeed


def test_pil_images_whose_values_have_no_agreed_white_are_refused(network, pixels):
    grey = pixels[..., 0].astype(np.float32)
    for values in (grey.astype(np.int32) - 9, grey - 9, grey.astype(np.int32) * 1000, grey * 1000):
        with pytest.raises(ImageError, match=r"no agreed white.* x\.point\(lambda v: v \* [\d.e-]+ \+ [\d.e-]+\)"):
            network(Image.fromarray(values))
    with pytest.raises(ImageError, match=r"from 0 to 1 and beyond as resizing"):
        network(Image.fromarray(grey / 250))
    with pytest.raises(ImageError, match="NaN or infinite"):
        network(Image.fromarray(np.where(grey > 100, np.nan, grey)))
    wanted = network(pixels[..., 0], embed=True)
    for scale in (1, 1 / 255):
        assert same(network(Image.fromarray(grey * np.float32(scale)), embed=True), wanted)


def test_one_image_many_times_that_has_several_frames_is_refused(network, pixels, tmp_path):
    frames = [Image.fromarray(np.roll(pixels, 20 * index, axis=0)) for index in range(3)]
    for suffix in ("gif", "tif", "png", "webp"):
        path = tmp_path / f"frames.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with Image.open(path) as image:
            with pytest.raises(UsageError, match=r"^images\[0\] and images\[1\] are one PIL image, .*frame\.copy\(\)"):
                network.predict_many(list(ImageSequence.Iterator(image)))
            image.seek(0)
            copies = [frame.copy() for frame in ImageSequence.Iterator(image)]
            image.seek(0)
            results = list(network.predict_many(copies, embed=True))
            assert len(results) == 3 and not same(results[0], results[2])
            one_by_one = network.predict_many(ImageSequence.Iterator(image), embed=True)
            assert all(map(same, one_by_one, results)), suffix


def test_bytes_that_are_a_path_or_text_are_refused(network, folder):
    path = folder / "b.png"
    content = path.read_bytes()
    for form in (
        os.fsencode(path),
        os.fsencode(folder),
        b"away/photo.jpg",
        b"https://host/photo",
        bytearray(b"a.webp"),
    ):
        with pytest.raises(UsageError, match=r"^the image is .* as bytes, .* Write os\.fsdecode\(x\)"):
            network(form)
    with pytest.raises(UsageError, match=r"^images\[1\] is .* as bytes"):
        network.predict_many([path, os.fsencode(path)])
    for encoded in (base64.b64encode(content), base64.encodebytes(content), b"data:image/png;base64,AAAA"):
        with pytest.raises(ImageError, match="text file"):
            network(encoded)
    with pytest.raises(ImageError, match="text file"):
        network(b"some words\nin lines")


def test_names_of_what_has_none(network, pixels, folder):
    assert network(pixels).path == "image"
    with (folder / "b.png").open("rb") as file:
        mixed = [pixels, str(folder / "a.png"), Image.fromarray(pixels), np.stack([pixels] * 2), file, b"", pixels[:0]]
        results = list(network.predict_many(mixed))
    a, b = str(folder / "a.png"), str(folder / "b.png")
    assert [result.path for result in results] == [
        *("image 0", a, "image 2", "image 3[0]", "image 3[1]", b, "image 5", "image 6")
    ]
    assert [result.error for result in results[:6]] == [None] * 6
    assert results[6].error == "image 5 is empty" and results[7].error == "image 6 has no pixels (50 × 0)"
    assert [result.path for result in network.predict_many(np.stack([pixels] * 2))] == ["image 0", "image 1"]


def test_how_many_there_are_is_known_of_folders(network, folder, monkeypatch):
    counts = []
    get = network._engines.get
    monkeypatch.setattr(network._engines, "get", lambda batch, count, **how: counts.append(count) or get(batch, **how))
    for photos in (str(folder), [str(folder)] * 2, iter([str(folder)]), [str(folder)] * 65):
        list(network.predict_many(photos))
    assert counts == [3, 6, None, 65]  # at least


# --- what is refused -------------------------------------------------------------------------------------------------

A = np.zeros((50, 40, 3), np.uint8)
REFUSED = [
    (lambda: A / 255, r"float64 \(50, 40, 3\).*how floats were scaled.*\(x \* 255\).*preprocessed=True"),
    (lambda: torch.zeros(3, 50, 40), r"torch tensor float32 \(3, 50, 40\).*\.round\(\)\.byte\(\)"),
    (lambda: torch.zeros(3, 50, 40, dtype=torch.bfloat16), "bfloat16.*how floats were scaled"),
    (lambda: A.astype(np.int64), r'int64.*allowed is uint8.*x\.astype\("uint8"\)'),
    (lambda: torch.zeros(3, 50, 40, dtype=torch.int64), r"int64.*write x\.byte\(\)"),
    (lambda: A[..., 0].astype(np.uint16), r"uint16.*16 bits of grey, write PIL\.Image\.fromarray"),
    (lambda: A > 0, "NumPy array bool"),
    (lambda: A.transpose(2, 0, 1), r"channels are first; a NumPy array has them last. Write x\.transpose\(1, 2, 0\)"),
    (lambda: torch.from_numpy(A), r"channels are last; a torch tensor has them first. Write x\.permute\(2, 0, 1\)"),
    (lambda: A[:3], r"may be first or last. Write PIL\.Image\.fromarray\(x\) where they are last"),
    (lambda: torch.zeros(3, 50, 4, dtype=torch.uint8), r"first or last.*fromarray\(x\.numpy\(\)\.transpose"),
    (lambda: A[:, :2], None),
    (lambda: A[..., :2], r"C is 1 \(grey\), 3 \(RGB\) or 4"),
    (lambda: A[None], r"is a batch \(1, 50, 40, 3\).*predict_many\(x\)"),
    (lambda: A.transpose(2, 0, 1)[None], r"channels are first.*x\.transpose\(0, 2, 3, 1\)"),
    (lambda: torch.from_numpy(A)[None], r"channels are last.*x\.permute\(0, 3, 1, 2\)"),
    (lambda: A[None, None], r"uint8 \(1, 1, 50, 40, 3\); allowed"),
    (lambda: np.frombuffer(b"content", np.uint8), r"uint8 \(7,\); allowed"),
    (lambda: np.ma.masked_array(A), "mask, which would be ignored"),
    (lambda: torch.zeros(3, 50, 40, dtype=torch.uint8, device="meta"), "no plain values"),
    (lambda: None, r"is None; allowed is a path, .* A missing value"),
    (lambda: float("nan"), r"is nan; .* A missing value"),
    (lambda: 7, "is 7; allowed is a path"),
    (lambda: {"image": A}, r"type dict; .* Give the image or the path in it"),
    (lambda: [A, A], r"type list; .* predict_many\(x\)"),
    (lambda: (A, 1), r"type tuple; .* pairs of an image, or of a batch, and a label"),
    (lambda: iter([A]), r"predict_many\(x\)"),
    (lambda: {"a.png"}, "A set has no order"),
    (object, "type object; allowed is a path"),
    (lambda: "", r"is an empty path"),
    (lambda: "data:image/png;base64,AAAA", r"26 characters .*base64\.b64decode"),
    (lambda: "A" * 5000, "5,000 characters"),
    (lambda: "s3://bucket/a.jpg", r"s3://bucket/a\.jpg, and of addresses only http:// and https:// are fetched\.$"),
    (lambda: Path("https://example.org/a.jpg"), "Give it as text: a Path has lost one of its slashes"),
    (lambda: archive(), "type ZipFile; allowed is a path"),
    (lambda: zipfile.Path(archive()), "type Path; allowed is a path"),
    (lambda: SimpleNamespace(content=b"", status_code=200), "type SimpleNamespace; allowed is a path"),
    (lambda: io.StringIO("text"), r"open as text. Write open\(path, 'rb'\)"),
    (lambda: upload(None, lambda self: "text"), "type Upload, whose read gives str"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_no_image_is_refused(network, make, message):
    if message is None:
        assert network(make()).label  # two columns are no channels
        return
    with pytest.raises(UsageError, match=message) as told:
        network.predict(make())
    assert str(told.value).startswith("the image ") and "\n" not in str(told.value)


@pytest.mark.parametrize(("make", "message"), [case for case in REFUSED if case[1] and "is a batch" not in case[1]])
def test_what_is_no_image_in_a_list_or_a_generator(network, make, message, monkeypatch):
    monkeypatch.setattr(network, "_runner", None)  # nothing is run before the list has been looked at
    with pytest.raises(UsageError, match=r"^images\[1\] "):
        network.predict_many([A, make()])
    monkeypatch.undo()
    results = network.predict_many(iter([A, make()]))
    with pytest.raises(UsageError, match=r"^images\[1\] "):
        list(results)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "is None; allowed is a list or a generator"),
        (lambda: 7, "is 7; allowed is a list"),
        (lambda: np.uint8(3), r"is .*3\)?; allowed is a list"),
        (lambda: list, "of the type type; allowed is a list"),
        (lambda: {"a": A}, "Give the image or the path in it"),
        (lambda: {"a.png"}, r"write sorted\(x\)"),
        (lambda: A, r"one array \(50, 40, 3\).*predict\(x\) or predict_many\(\[x\]\).*predict_many\(list\(x\)\)"),
        (lambda: A[..., 0], r"one array \(50, 40\)"),
        (lambda: torch.zeros(3, 50, 40, dtype=torch.uint8), r"one array \(3, 50, 40\)"),
        (lambda: np.zeros((9, 28, 28), np.uint8), r"several images of grey, give a list of them: list\(x\)"),
        (lambda: A[None] / 255, r"^the batch is a NumPy array float64 \(1, 50, 40, 3\), and how floats"),
        (lambda: "", r"^images\[0\] is an empty path"),
    ],
)
def test_what_is_no_images_is_refused(network, make, message):
    with pytest.raises(UsageError, match=message):
        network.predict_many(make())


def test_a_mistyped_path_is_told_with_the_nearest(network, folder):
    wrong = folder / "aa.png"
    message = rf"{wrong}: no such file\. Did you mean 'a\.png'"
    for given in (wrong, str(wrong)):
        with pytest.raises(ImageError, match=message):
            network.predict(given)
        (result,) = network.predict_many([given])
        assert re.match(message, result.error)
        (result,) = network.predict_many(iter([given]))
        assert re.match(message, result.error)
    many = [result.error for result in network.predict_many([wrong] * 12)]
    assert [bool(re.match(message, error)) for error in many] == [True] * 8 + [False] * 4  # each search takes time
    assert set(many[8:]) == {f"{wrong}: no such file"}
    (result,) = network.predict_many(["a\0.png"])
    assert "no such file" not in result.error and "null" in result.error


def test_one_photo_is_no_folder_and_no_pattern(network, folder, monkeypatch):
    with pytest.raises(ImageError, match=rf"{folder} is a folder.*predict_many\('{folder}'\)"):
        network(folder)
    with pytest.raises(ImageError, match=r"no such file\. Where it is a pattern, write predict_many"):
        network(f"{folder}/*.png")
    Image.fromarray(A).save(folder / "[1].png")
    try:
        assert network(f"{folder}/[1].png").label  # a file of that name
    finally:
        (folder / "[1].png").unlink()


def test_files_that_cannot_be_read(network, folder):
    with (folder / "b.png").open("rb") as file:
        pass
    with pytest.raises(UsageError, match="has been closed"):
        network(file)
    with Path(os.devnull).open("wb") as file, pytest.raises(UsageError, match="open for writing"):
        network(file)

    async def read(self):
        return b""

    with pytest.raises(UsageError, match=r"type Upload, .* await x\.read\(\)"):
        network(upload(None, read))
    image = Image.open(folder / "b.png")
    image.close()
    with pytest.raises(ImageError, match=r"b\.png was closed before it was read"):
        network(image)


@pytest.mark.parametrize("top", [0, -1, 2.5, "3", None])
def test_a_number_of_classes_that_is_none(network, folder, top):
    for ask in (network.predict, network.predict_many):
        with pytest.raises(UsageError, match=r"top is .*whole number of at least 1"):
            ask(folder / "b.png", top=top)


@pytest.mark.parametrize("count", [-5, 2.5, "3", float("nan")])
def test_a_number_of_photos_that_is_none(network, folder, count):
    with pytest.raises(UsageError, match=r"count is .*whole number of at least 1"):
        network.predict_many([folder / "b.png"], count=count)
    assert list(network.predict_many([], count=0)) == []


def test_what_a_generator_gave_before_an_error_is_predicted(network, pixels):
    def broken(error):
        yield from [pixels] * 3
        raise error

    for photos, error in ((broken(ConnectionError("gone")), ConnectionError), (iter([pixels] * 3 + [7]), UsageError)):
        found = []
        with pytest.raises(error):
            for result in network.predict_many(photos):
                found.append(result.label)
        assert found == [network(pixels).label] * 3


def test_every_tensor_is_known_without_torch(tiny_model, monkeypatch):
    """A base install has no torch, and nothing there is a tensor."""
    import sys

    from vertebra.runtime.array_inputs import is_tensor

    tensor = torch.zeros(1)
    assert is_tensor(tensor)
    monkeypatch.delitem(sys.modules, "torch")
    assert not is_tensor(tensor) and not is_tensor(A)
