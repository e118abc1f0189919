"""Which photos show the same picture, whatever was done to them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vertebra.data import ImageInfo, ImageInfoCache, find_duplicates, open_dataset, read_image_info
from vertebra.data import image_alignment as compare_module
from vertebra.data.duplicates import group_duplicates
from vertebra.data.image_alignment import Placement, compare, same_proportions, smoothed
from vertebra.data.perceptual_hash import WINDOWS, Index, coefficients, hashes_of

SIZE = (160, 120)
TURN = Image.Transpose


def picture(seed, size=SIZE):
    """As a photo is: large shapes, edges and texture."""
    random = np.random.default_rng(seed)
    levels = np.zeros((size[1], size[0], 3))
    for cells in (3, 8, 24, 60):
        coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        levels += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), float) / cells**0.7
    levels -= levels.min()
    return Image.fromarray((levels * 220 / levels.max()).astype(np.uint8))


def crop(image, left, top, width=7 / 8, height=7 / 8):
    w, h = round(image.width * width), round(image.height * height)
    x, y = round((image.width - w) * left), round((image.height - h) * top)
    return image.crop((x, y, x + w, y + h))


def encoded(image, quality=90):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def grouped(*contents):
    """(members, kinds) of the groups among files of these contents or pictures."""
    cache = ImageInfoCache()
    files = [content if isinstance(content, bytes) else encoded(content) for content in contents]
    infos = [cache.examine(content)[0] for content in files]
    found = group_duplicates(infos, lambda place: cache.thumbnail(infos[place].sha256, "no such file"))
    return [(group.members, group.kinds) for group in found]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("mirrored", lambda image: image.transpose(TURN.FLIP_LEFT_RIGHT)),
        ("mirrored top to bottom", lambda image: image.transpose(TURN.FLIP_TOP_BOTTOM)),
        ("rotated by 180°", lambda image: image.transpose(TURN.ROTATE_180)),
        ("rotated by 90° counter-clockwise", lambda image: image.transpose(TURN.ROTATE_90)),
        ("rotated by 90° clockwise", lambda image: image.transpose(TURN.ROTATE_270)),
        ("mirrored and rotated", lambda image: image.transpose(TURN.TRANSPOSE)),
        ("mirrored and rotated", lambda image: image.transpose(TURN.TRANSVERSE)),
        ("cropped", lambda image: crop(image, 0.5, 0.5)),
        ("cropped", lambda image: crop(image, 0, 0)),
        ("cropped", lambda image: crop(image, 1, 0)),
        ("cropped", lambda image: crop(image, 0, 1)),
        ("cropped", lambda image: crop(image, 1, 1)),
        ("cropped", lambda image: crop(image, 0.3, 0.8, 0.92, 0.9)),
        ("cropped", lambda image: crop(image, 1, 0, 7 / 8, 1)),
        ("cropped", lambda image: crop(image, 0, 0, 1, 7 / 8)),
        ("mirrored, cropped", lambda image: crop(image, 1, 0).transpose(TURN.FLIP_LEFT_RIGHT)),
        ("rotated by 90° clockwise, cropped", lambda image: crop(image, 1, 1).transpose(TURN.ROTATE_270)),
        ("same picture", lambda image: image.resize((80, 60))),
        ("same picture", lambda image: ImageEnhance.Brightness(image).enhance(1.3)),
        ("same picture", lambda image: ImageEnhance.Contrast(image).enhance(0.7)),
        ("same picture", lambda image: crop(image, 0.5, 0.5, 0.985, 0.985)),
    ],
)
def test_copies_are_found_and_told(seed, kind, make):
    original = picture(seed)
    ((members, kinds),) = grouped(picture(77), original, picture(78), make(original))
    # Of two that show as much, either may be called the original.
    back = {"rotated by 90° clockwise": "rotated by 90° counter-clockwise"} | {
        "rotated by 90° counter-clockwise": "rotated by 90° clockwise"
    }
    assert (members, kinds) in (((1, 3), ("", kind)), ((3, 1), ("", back.get(kind, kind))))


def test_recompressed_and_greyscale_copies():
    original = picture(3)
    found = grouped(encoded(original), encoded(original, 40), original.convert("L"))
    assert [members for members, _ in found] == [(0, 1, 2)] or sorted(found[0][0]) == [0, 1, 2]


def test_a_smaller_part_is_another_picture():
    original = picture(4)
    assert grouped(original, crop(original, 0, 0, 0.75, 0.75)) == []
    assert grouped(original, original.resize((160, 90))) == []  # of other proportions


def test_different_pictures_are_not_joined():
    assert grouped(*(picture(seed) for seed in range(10, 40))) == []


def test_one_place_in_another_light_is_not_one_picture():
    """Alike in the coarse, not in detail."""
    one, other = picture(5), picture(6)
    coarse = np.asarray(one.resize((12, 9)).resize(SIZE, Image.Resampling.BICUBIC), float)
    details = [np.asarray(p, float) - np.asarray(p.resize((12, 9)).resize(SIZE), float) for p in (one, other)]
    pair = [Image.fromarray(np.clip(0.7 * coarse + 40 + d, 0, 255).astype(np.uint8)) for d in details]
    assert grouped(*pair) == []


def test_flat_pictures_and_gradients_are_not_compared():
    white, black = (Image.new("RGB", SIZE, colour) for colour in ("white", "black"))
    grey = Image.new("RGB", (200, 150), (250, 250, 250))
    ramp = Image.linear_gradient("L").resize(SIZE)
    assert grouped(white, grey, black, black.resize((80, 60)), ramp, ramp.transpose(TURN.FLIP_TOP_BOTTOM)) == []
    assert grouped(encoded(white), encoded(white)) == [((0, 1), ("", "identical file"))]


def test_a_symmetric_picture_is_not_its_own_copy():
    half = picture(7)
    both = Image.new("RGB", (320, 120))
    both.paste(half, (0, 0))
    both.paste(half.transpose(TURN.FLIP_LEFT_RIGHT), (160, 0))
    assert grouped(both, picture(8)) == []
    # What agrees in several orientations is told as it stands.
    assert grouped(encoded(both), encoded(both, 60)) in (
        [((0, 1), ("", "same picture"))],
        [((1, 0), ("", "same picture"))],
    )


def test_pictures_of_few_pixels_are_compared_as_they_stand_alone():
    small = picture(9, (31, 31))
    large = picture(9, (32, 32))
    mirrored = [image.transpose(TURN.FLIP_LEFT_RIGHT) for image in (small, large)]
    for image, mirror, count in ((small, mirrored[0], 0), (large, mirrored[1], 1)):
        buffers = [io.BytesIO(), io.BytesIO()]
        image.save(buffers[0], "PNG")
        mirror.save(buffers[1], "PNG")
        assert len(grouped(*(buffer.getvalue() for buffer in buffers))) == count
    png, bmp = io.BytesIO(), io.BytesIO()
    small.save(png, "PNG")
    small.save(bmp, "BMP")
    assert len(grouped(png.getvalue(), bmp.getvalue())) == 1


def test_copies_to_the_byte_are_in_the_group_of_their_picture():
    original, mirror = picture(11), picture(11).transpose(TURN.FLIP_LEFT_RIGHT)
    content = encoded(original)
    (group,) = grouped(encoded(mirror), content, picture(12), content, encoded(mirror))
    assert sorted(group[0]) == [0, 1, 3, 4]
    assert sorted(group[1]) == ["", "identical file", "mirrored", "mirrored"]


def test_what_is_like_a_member_alone_does_not_join():
    """The picture moves a little each time: neighbours are alike, the first and the last are not."""
    wide = picture(13, (400, 120))
    frames = [wide.crop((step * 12, 0, step * 12 + 160, 120)) for step in range(12)]
    groups = grouped(*frames)
    assert all(len(members) < 6 for members, _ in groups)


def test_a_part_of_a_part_belongs_to_the_whole_or_to_no_one():
    whole = picture(14)
    part = crop(whole, 0, 0)
    least = crop(part, 0, 0)
    (members, kinds), *rest = grouped(least, part, whole)
    assert len(members) == 2
    assert kinds == ("", "cropped")
    assert rest == []
    # The one that shows most comes first, in whatever order they are found.
    assert grouped(crop(whole, 1, 1), crop(whole, 0, 0), whole, crop(whole, 0.5, 0.5))[0][0][0] == 2


def test_names_and_order_change_nothing():
    files = [encoded(image) for seed in range(6) for image in (picture(seed), crop(picture(seed), 0, 1))]
    first = {frozenset(files[i] for i in members) for members, _ in grouped(*files)}
    turned = files[::-1]
    assert {frozenset(turned[i] for i in members) for members, _ in grouped(*turned)} == first
    assert len(first) == 6


def test_many_of_the_same_are_one_group_and_many_alike_end():
    content = np.asarray(picture(15).convert("L").resize((64, 64)))
    look = content.reshape(16, 4, 16, 4).mean(axis=(1, 3)).astype(np.uint8).tobytes()
    infos = [ImageInfo(f"{place:064x}", 160, 120, look) for place in range(400)]
    (group,) = group_duplicates(infos, lambda place: content)
    assert len(group.members) == 400
    asked = []

    def noise(place):
        asked.append(place)
        fine = np.random.default_rng(place).integers(-60, 60, (64, 64))
        return np.clip(content.astype(int) + fine, 0, 255).astype(np.uint8)

    assert group_duplicates(infos, noise) == []
    assert len(asked) < 30 * len(infos)  # of 80,000 pairs


def test_without_thumbnails_only_bytes_are_compared():
    cache = ImageInfoCache()
    infos = [cache.examine(encoded(picture(16), quality))[0] for quality in (90, 50)]
    assert group_duplicates(infos, lambda place: None) == []
    assert len(group_duplicates([infos[0]] * 2, lambda place: None)) == 1
    broken = ImageInfo("x", broken="damaged")
    assert group_duplicates([broken, broken], lambda place: None) == []
    assert group_duplicates([], lambda place: None) == []


def test_thumbnails_come_from_the_files_where_the_cache_has_none(tmp_path):
    for label, images in {"a": (picture(1), picture(2)), "b": (crop(picture(1), 0, 0), picture(3))}.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(tmp_path / "photos" / label / f"{number}.png")
    dataset = open_dataset(tmp_path / "photos")
    infos = read_image_info(dataset)
    (group,) = find_duplicates(dataset, infos)
    assert group.members == (0, 2)
    other = ImageInfoCache(tmp_path / "other")
    assert find_duplicates(dataset, infos, other) == [group]
    # A file that is another one by now says nothing of the first.
    picture(99).save(dataset.photos[2].path)
    assert find_duplicates(dataset, infos, other) == []
    assert find_duplicates(dataset, infos) == [group]
    dataset.photos[2].path.unlink()
    assert find_duplicates(dataset, infos, other) == []


def test_hashes_of_orientations_follow_from_one():
    greys = np.asarray(picture(17).convert("L").resize((16, 16)), np.float32)[None]
    found = coefficients(greys, WINDOWS[0])
    waves = np.array([np.cos(np.pi * u * (np.arange(16) + 0.5) / 16) for u in range(8)])
    reference = [[(greys[0] * np.outer(waves[u], waves[v])).sum() for v in range(8)] for u in range(8)]
    assert np.allclose(found[0], reference, rtol=1e-3, atol=1e-1)
    index = Index.of(lambda _: greys.astype(np.uint8).tobytes(), np.zeros(1, np.int32), np.ones(1, bool))
    for orientation in range(8):
        turned = compare_module._orient(greys, orientation)
        own = hashes_of(coefficients(turned, WINDOWS[0]))
        assert index.oriented(slice(None), orientation) == own


@pytest.mark.parametrize("first", range(8))
def test_placements_compose_and_invert(first):
    box = np.array([[0.1, 0.0, 1.0, 0.9]])
    for second in range(8):
        one, two = (Placement(np.array([orientation]), box) for orientation in (first, second))
        both = one.then(two)
        mark = np.arange(16.0, dtype=np.float32).reshape(4, 4)
        assert np.array_equal(
            compare_module._orient(compare_module._orient(mark, first), second),
            compare_module._orient(mark, int(both.orientation[0])),
        )
        size = both.boxes[0, 2:] - both.boxes[0, :2]
        assert np.allclose(size, 0.81)
        back = both.then(both.inverse())
        assert back.orientation[0] == 0
        assert np.allclose(back.boxes, [[0, 0, 1, 1]])


def test_proportions():
    whole = Placement(np.array([0]), np.array([[0.0, 0, 1, 1]]))
    turned = Placement(np.array([5]), np.array([[0.0, 0, 1, 1]]))
    half = Placement(np.array([0]), np.array([[0.0, 0, 0.5, 1]]))
    size = np.array([[200.0, 100.0]])
    assert same_proportions(size, size / 3, whole)
    assert same_proportions(size, size * [[1.09, 1]], whole)
    assert not same_proportions(size, size * [[1.12, 1]], whole)
    assert not same_proportions(size, size, turned)
    assert same_proportions(size, size[:, ::-1], turned)
    assert same_proportions(size, np.array([[50.0, 50.0]]), half)


def test_guesses_are_improved_but_for_few_pixels():
    one = picture(18)
    part = crop(one, 0.4, 0.6, 0.93, 0.95)
    greys = [
        smoothed(np.asarray(p.convert("L").resize((64, 64), Image.Resampling.BILINEAR)))[None] for p in (one, part)
    ]
    guess = Placement(np.array([0]), np.array([[0.0, 0, 1, 1]]))
    same, found = compare(*greys, guess, movable=np.array([True]))
    assert same[0]
    assert np.allclose(found.boxes[0], [0.028, 0.03, 0.958, 0.98], atol=0.015)
    assert not compare(*greys, guess, movable=np.array([False]))[0][0]
    assert compare(greys[0], greys[0], guess, movable=np.array([False]))[0][0]


@pytest.mark.slow
def test_digits_do_not_run_together():
    pytest.importorskip("sklearn")
    dataset = open_dataset("digits")
    groups = find_duplicates(dataset, read_image_info(dataset))
    assert max(len(group.members) for group in groups) <= 17  # 1 % of 1,797
    assert sum(len(group.members) for group in groups) <= 17


def test_a_group_joins_the_whole_that_it_is_a_part_of():
    for seed in (1, 2, 3):
        whole = picture(seed)
        part = crop(whole, 0.5, 0.5)
        mirrored = part.transpose(TURN.FLIP_LEFT_RIGHT)
        found = grouped(picture(50), encoded(part), encoded(part, 60), encoded(mirrored, 80), encoded(whole))
        ((members, kinds),) = found
        assert members[0] == 4 and sorted(members) == [1, 2, 3, 4]
        told = dict(zip(members, kinds, strict=True))
        assert (told[4], told[1], told[2], told[3]) == ("", "cropped", "cropped", "mirrored, cropped")


def test_of_equal_ones_the_larger_is_the_original():
    original = picture(11)
    small = original.resize((96, 72))
    assert grouped(small, original) == [((1, 0), ("", "same picture"))]
    assert grouped(original, small) == [((0, 1), ("", "same picture"))]
    # Of two of one size the one of the larger group.
    part = crop(original, 1, 0)
    ((members, _),) = grouped(part, crop(part, 0.5, 0.5, 0.93, 0.93), original)
    assert members[0] == 2


def test_pairs_of_several_groups_are_compared_at_once():
    files = []
    for seed in range(60, 66):
        image = picture(seed)
        files += [encoded(image), encoded(image, 70), encoded(image, 50), encoded(crop(image, 0, 1))]
    found = grouped(*files)
    assert sorted(tuple(sorted(members)) for members, _ in found) == [tuple(range(4 * n, 4 * n + 4)) for n in range(6)]


@pytest.mark.parametrize("way", [*TURN], ids=str)
def test_a_faint_frequency_hides_no_copy(way):
    """A lamp before a plain wall: half its low frequencies are nearly 0, of no sign that could be turned about."""
    values = np.full((150, 200), 200.0)
    values[20:60, 80:120] = np.linspace(60, 140, 40)[:, None] + 20 * np.sin(np.arange(40))
    values[60:140, 96:104] = 90 + 30 * np.cos(np.arange(80))[:, None]
    lamp = Image.fromarray(values.astype(np.uint8)).convert("RGB")
    ((places, _),) = grouped(lamp, lamp.transpose(way))
    assert sorted(places) == [0, 1]
