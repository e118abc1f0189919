"""Audits a data set: unusable and unusual photos, duplicates, and sizes of classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from vertebra.card import Decoding
from vertebra.decoding_notes import DecodingNotes

from .audit_result import MIN_PHOTO_SIDE, Audit, BrokenPhoto, DuplicateFinding, UnusualPhoto
from .dataset import SPLITS, DataError, Dataset
from .duplicates import DuplicateGroup, find_duplicates
from .image_info import ImageInfo, ImageInfoCache

MAX_ASPECT_RATIO = 4.0  # a centre crop of it loses three quarters of the photo
# Grey levels of `ImageInfo.darkest` and `lightest`. No photo of 5,784 of Caltech-101 is beyond them.
MAX_FLAT_RANGE = 8  # lightest - darkest of a photo of a single colour
MIN_LIGHTEST = 40
MAX_DARKEST = 215
# Of `ImageInfo.edge`: no photo of 250 of Caltech-101 is below it, but 97 % of the same photos after a Gaussian blur of
# 2 % of their shorter side.
MIN_EDGE = 0.17
_MIN_EDGE_SIDE = 64  # pixels: the sharpness of smaller photos is not judged


def audit(
    dataset: Dataset,
    infos: Sequence[ImageInfo],
    splits: Sequence[str] | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    duplicates: Sequence[DuplicateGroup] | None = None,
) -> Audit:
    """Audit a data set, given the result of `read_image_info`.

    Args:
        dataset: the data set.
        infos: of each photo.
        splits: of each photo, "" for none; None: those of the data set.
        decoding: with which `infos` were read.
        duplicates: the result of `find_duplicates`; None: it is called.

    Raises:
        DataError: no photo can be used.
    """
    photos = dataset.photos
    shown = [dataset.shown(photo.path) for photo in photos]
    given = [photo.split or "" for photo in photos] if splits is None else list(splits)
    usable = [index for index, found in enumerate(infos) if found.broken is None]
    if not usable:
        reason = f"The first, {shown[0]}, {infos[0].reason}"
        raise DataError(f"{dataset.name}: none of its photos can be used. {reason}.")

    def unusual(test: Callable[[ImageInfo], bool]) -> tuple[UnusualPhoto, ...]:
        return tuple(UnusualPhoto(shown[i], infos[i].width, infos[i].height) for i in usable if test(infos[i]))

    sides = sorted(min(infos[i].width, infos[i].height) for i in usable)
    per_class = Counter(photos[i].label for i in usable)
    per_split = Counter(given[i] for i in usable)
    if duplicates is None:
        duplicates = find_duplicates(dataset, infos, ImageInfoCache(decoding=decoding))
    groups = []
    for group in duplicates:
        # Photos without a split cannot leak yet.
        group_splits = tuple(given[i] for i in group.members if given[i])
        paths, labels = zip(*((shown[i], photos[i].label) for i in group.members), strict=True)
        exact = len({infos[i].sha256 for i in group.members}) == 1
        groups.append(DuplicateFinding(paths, labels, group_splits, exact, group.kinds))
    decoded = DecodingNotes(decoding)
    for i in usable:
        decoded.add(shown[i], infos[i].levels, infos[i].remarks.splitlines())
    return Audit(
        name=dataset.name,
        photos=len(photos),
        classes={name: per_class[name] for name in dataset.classes},
        splits={name: per_split[name] for name in SPLITS if per_split[name]},
        sizes=(sides[0], sides[len(sides) // 2], sides[-1]),
        broken=tuple(BrokenPhoto(shown[i], f.broken, f.reason) for i, f in enumerate(infos) if f.broken is not None),
        tiny=unusual(lambda f: min(f.width, f.height) < MIN_PHOTO_SIDE),
        extreme=unusual(lambda f: max(f.width, f.height) > MAX_ASPECT_RATIO * min(f.width, f.height)),
        flat=unusual(_is_flat),
        dark=unusual(lambda f: not _is_flat(f) and f.lightest < MIN_LIGHTEST),
        light=unusual(lambda f: not _is_flat(f) and f.darkest > MAX_DARKEST),
        blurred=unusual(lambda f: not _is_flat(f) and min(f.width, f.height) >= _MIN_EDGE_SIDE and f.edge < MIN_EDGE),
        groups=tuple(groups),
        case_clashes=_case_clashes(dataset.classes),
        others=dataset.others,
        unreadable=dataset.unreadable,
        notes=(*dataset.notes, *decoded.lines(idle=True)),
        looked_in=dataset.looked_in,
        unclear=decoded.unclear,
    )


def _case_clashes(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    by_folded_name = defaultdict(list)
    for name in names:
        by_folded_name[name.casefold()].append(name)
    return tuple(tuple(group) for group in by_folded_name.values() if len(group) > 1)


def _is_flat(info: ImageInfo) -> bool:
    return info.lightest - info.darkest <= MAX_FLAT_RANGE
