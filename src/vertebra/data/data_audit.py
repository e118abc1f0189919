"""What is wrong with a data set, before hours are spent on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from vertebra.card import Decoding
from vertebra.decoding_notes import DecodingNotes

from .audit_result import TINY, Audit, Broken, Group, UnusualPhoto
from .dataset import SPLITS, DataError, Dataset
from .duplicates import DuplicateGroup, find_duplicates
from .image_info import ImageInfo, ImageInfoCache

EXTREME = 4.0  # longer side / shorter side: a centre crop loses three quarters of it
# Levels of grey, of 255, but for the 1 % darkest and the 1 % lightest pixels. Of 5,784 Caltech photos none is so.
FLAT = 8  # from the darkest to the lightest
DARK = 40  # the lightest
LIGHT = 215  # the darkest
# The steepest 0.2 % of the steps between neighbouring pixels, as a share of the range of levels, where the shorter side
# has 128 pixels. Of 250 Caltech photos none is below; of the same ones blurred by a Gaussian of 2 % of that side, 97 %.
BLURRED = 0.17
_SHARP_SIDE = 64  # pixels: smaller photos are not judged


def audit(
    dataset: Dataset,
    infos: Sequence[ImageInfo],
    splits: Sequence[str] | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    duplicates: Sequence[DuplicateGroup] | None = None,
) -> Audit:
    """Judge a data set by the infos of its photos, as `read_image_info` and `find_duplicates` return them.

    `splits` are of each photo, empty where it has none. What is None is what the data set brings, or is found anew. If
    no photo can be used, a DataError says why.
    """
    photos = dataset.photos
    shown = [dataset.shown(photo.path) for photo in photos]
    given = [photo.split or "" for photo in photos] if splits is None else list(splits)
    usable = [index for index, found in enumerate(infos) if found.broken is None]
    if not usable:
        reason = f"The first, {shown[0]}, {infos[0].reason}"
        raise DataError(f"{dataset.name}: none of its photos can be used. {reason}.")

    def odd(is_odd: Callable[[ImageInfo], bool]) -> tuple[UnusualPhoto, ...]:
        return tuple(UnusualPhoto(shown[i], infos[i].width, infos[i].height) for i in usable if is_odd(infos[i]))

    sides = sorted(min(infos[i].width, infos[i].height) for i in usable)
    per_class = Counter(photos[i].label for i in usable)
    per_split = Counter(given[i] for i in usable)
    if duplicates is None:
        duplicates = find_duplicates(dataset, infos, ImageInfoCache(decoding=decoding))
    groups = []
    for group in duplicates:
        # What the data set does not split cannot leak yet.
        where = tuple(given[i] for i in group.members if given[i])
        labels = tuple(photos[i].label for i in group.members)
        exact = len({infos[i].sha256 for i in group.members}) == 1
        groups.append(Group(tuple(shown[i] for i in group.members), labels, where, exact, group.kinds))
    decoded = DecodingNotes(decoding)
    for i in usable:
        decoded.add(shown[i], infos[i].levels, infos[i].remarks.splitlines())
    return Audit(
        name=dataset.name,
        photos=len(photos),
        classes={name: per_class[name] for name in dataset.classes},
        splits={name: per_split[name] for name in SPLITS if per_split[name]},
        sizes=(sides[0], sides[len(sides) // 2], sides[-1]),
        broken=tuple(Broken(shown[i], f.broken, f.reason) for i, f in enumerate(infos) if f.broken is not None),
        tiny=odd(lambda f: min(f.width, f.height) < TINY),
        extreme=odd(lambda f: max(f.width, f.height) > EXTREME * min(f.width, f.height)),
        flat=odd(_is_flat),
        dark=odd(lambda f: not _is_flat(f) and f.lightest < DARK),
        light=odd(lambda f: not _is_flat(f) and f.darkest > LIGHT),
        blurred=odd(lambda f: not _is_flat(f) and min(f.width, f.height) >= _SHARP_SIDE and f.edge < BLURRED),
        groups=tuple(groups),
        case_clashes=_case_clashes(dataset.classes),
        others=dataset.others,
        unreadable=dataset.unreadable,
        notes=(*dataset.notes, *decoded.lines(idle=True)),
        looked_in=dataset.looked_in,
        unclear=decoded.unclear,
    )


def _case_clashes(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    alike = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    return tuple(tuple(group) for group in alike.values() if len(group) > 1)


def _is_flat(info: ImageInfo) -> bool:
    return info.lightest - info.darkest <= FLAT
