"""Notes on photos whose files can be decoded in more than one way, for all commands that decode."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

from vertebra.bit_scaling import BYTE_FLOAT, CLAIMED, STRETCHED, UNIT_FLOAT
from vertebra.decoding import FIRST_OF_SEVERAL
from vertebra.preprocessing import Decoding
from vertebra.rgb_conversion import HIDDEN, TRANSPARENT
from vertebra.units import counted

_DEPTHS = (8, 10, 12, 14)  # bits that cameras and scanners have where files have 16
_DARK = 2  # bits fewer than white has: what stays below is no brighter than a quarter


class DecodingNotes:
    """Counts of such photos; several threads may add to them. `served`: a client cannot give `--bits`."""

    def __init__(self, decoding: Decoding, *, served: bool = False) -> None:
        self.given = decoding.bits is not None
        self.bits = decoding.bits or 16
        self._old, self._served = decoding.rule == 1, served
        self._lock = threading.Lock()
        self._largest: tuple[int, str] = (0, "")
        self._lengths: Counter[int] = Counter()  # bits that a photo's largest value takes -> photos
        self._remarks: Counter[str] = Counter()
        self._first: dict[int | str, str] = {}  # of those photos

    def add(self, name: str, levels: int, remarks: Sequence[str]) -> bool:
        """Count a photo, by its `Decoded.levels` and `Decoded.remarks`; whether it is the first of its kind."""
        kinds: list[int | str] = [levels.bit_length(), *remarks] if levels else list(remarks)
        with self._lock:
            new = any(kind not in self._first for kind in kinds)
            for kind in kinds:
                self._first.setdefault(kind, name)
            if levels:
                self._largest = max(self._largest, (levels, name))
                self._lengths[levels.bit_length()] += 1
            self._remarks.update(remarks)
        return new

    @property
    def suggested(self) -> int | None:
        """The fewest usual bits that all 16-bit values fit in, where nobody has said how many they use."""
        largest = self._largest[0]
        fitting = [bits for bits in _DEPTHS if 0 < largest < 2**bits]
        return fitting[0] if fitting and not self.given else None

    @property
    def unclear(self) -> int:
        """Photos that are nearly black, or whose brightest values are cut off, by where white is."""
        return self._lengths.total() if self.suggested is not None else self._over

    @property
    def _over(self) -> int:
        return sum(count for length, count in self._lengths.items() if length > self.bits)

    def lines(self, *, idle: bool = False) -> list[str]:
        """A sentence for each finding; with `idle` also that `bits` changed nothing."""
        found = [*self._of_16_bits(), *self._of_others()]
        if idle and self.bits < 16 and not self._lengths:
            found.append(f"bits is {self.bits}, which changes nothing: no photo leaves open how many of 16 it uses.")
        return found

    def _of_16_bits(self) -> Iterable[str]:
        deep, (largest, brightest) = self._lengths.total(), self._largest
        if self.suggested is not None:
            yield (
                f"The 16-bit values {_of(deep, brightest)} stay below {2**self.suggested:,} where white is 65,535: "
                f"nearly black. If {self.suggested} bits are used, {self._remedy}"
                + ("." if self._old or self._served else "; if they are dark indeed, --bits 16.")
            )
            return
        dark = [length for length in self._lengths if length <= self.bits - _DARK]
        if self.given and self.bits == 16:
            dark = []  # dark indeed
        if dark:
            count, limit = sum(self._lengths[length] for length in dark), min(b for b in _DEPTHS if b >= max(dark))
            yield (
                f"16-bit values stay below {2**limit:,} in {count:,} of {deep:,} such photos, such as "
                f"{self._first[max(dark)]}, {self._beside(largest, brightest)}: the dark ones may use fewer bits."
            )
        if self._over:
            yield (
                f"16-bit values above {2**self.bits - 1:,} are cut off to white in {counted(self._over, 'photo')}, "
                f"such as {brightest}, as bits is {self.bits}."
            )

    @property
    def _remedy(self) -> str:
        if self._old:
            return "export the model anew, as its file is older than --bits"
        if self._served:
            return f"serve a model that is trained with --bits {self.suggested}"
        return f"add --bits {self.suggested}"

    def _beside(self, largest: int, brightest: str) -> str:
        if self.given:
            return f"where bits, which is {self.bits}, puts white at {2**self.bits - 1:,}"
        return f"and reach {largest:,} in {brightest}"

    def _of_others(self) -> Iterable[str]:
        say = {
            CLAIMED: "scaled by the depth below 16 bits that the file itself says",
            TRANSPARENT: "taken as opaque, as alpha is 0 everywhere",
            HIDDEN: "nearly all transparent: more than 99 % of the picture is white",
            FIRST_OF_SEVERAL: "of several frames or pages, of which only the first is used",
            STRETCHED: "stretched from the least to the greatest of its own values, which have no agreed white (they "
            "are signed, of 32 bits or floating-point), so that brightness cannot be compared between photos",
            UNIT_FLOAT: "of floating-point values whose white is taken to be 1, as none is above",
            BYTE_FLOAT: "of floating-point values whose white is taken to be 255, as some are above 1",
        }
        for remark, what in say.items():
            if count := self._remarks[remark]:
                yield f"{counted(count, 'photo')} {what}{': ' if count == 1 else ', such as '}{self._first[remark]}."


def _of(count: int, name: str) -> str:
    return f"of {name}" if count == 1 else f"of all {count:,} such photos, such as {name},"
