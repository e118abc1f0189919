"""Where the children of a part are drawn: what each reads, its lane (column) and rank (row), and the lanes of arrows.

An arrow goes from its source sideways to its lane, down that lane, and sideways to its reader: sideways only between
two ranks, so that it crosses no node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

Reads = Mapping[str, Sequence[str]]  # nodes in the order in which they run → what each reads


@dataclass(frozen=True)
class Layout:
    """Integers, from 0; what is read from outside of the nodes is at rank -1."""

    ranks: dict[str, int]
    lanes: dict[str, int]
    arrows: dict[tuple[str, str], int]  # (source, reader) → the lane between their ranks


@dataclass
class _Track:
    """A chain of nodes, or the arrows that leave one source and run beside the nodes: it needs a lane to itself."""

    first: int  # ranks, both included
    last: int
    nodes: list[str] = field(default_factory=list)
    arrows: list[tuple[str, str]] = field(default_factory=list)
    lane: int = 0


def lay_out(reads: Reads) -> Layout:
    """Lanes and ranks; each straight chain stays in one lane, and each branch has a lane of its own."""
    ranks = _ranks(reads)
    main = {node: max(sources, key=lambda source: ranks.get(source, -1), default="") for node, sources in reads.items()}
    chain_after: dict[str, str] = {}  # node → the one that goes on below it
    for node, source in main.items():
        if source in reads:
            chain_after.setdefault(source, node)
    readers: dict[str, list[str]] = {}
    for node, sources in reads.items():
        for source in sources:
            readers.setdefault(source, []).append(node)
    tracks: list[_Track] = []
    asides: dict[str, list[str]] = {}  # source → readers that arrows beside the nodes lead to
    begins = [node for node in reads if chain_after.get(main[node]) != node]
    for begin in begins:
        track = _Track(ranks.get(main[begin], -1) + 1, ranks[begin])
        if main[begin]:
            track.arrows.append((main[begin], begin))
        node = begin
        track.nodes.append(node)
        while node in chain_after:
            following = chain_after[node]
            track.arrows.append((node, following))
            node = following
            track.nodes.append(node)
        ends = [reader for reader in readers.get(node, ()) if main[reader] != node]
        track.arrows += [(node, reader) for reader in ends]
        track.last = max([ranks[node], *(ranks[reader] - 1 for reader in ends)])
        tracks.append(track)
    drawn = {arrow for track in tracks for arrow in track.arrows}
    for source, each in readers.items():
        beside = [reader for reader in each if (source, reader) not in drawn]
        if beside:
            asides[source] = beside
    tracks += _bundles(asides, readers, ranks)
    _assign_lanes(tracks)
    return Layout(
        ranks,
        {node: track.lane for track in tracks for node in track.nodes},
        {arrow: track.lane for track in tracks for arrow in track.arrows},
    )


def _ranks(reads: Reads) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for node, sources in reads.items():
        ranks[node] = max((ranks[source] + 1 for source in sources if source in ranks), default=0)
    return ranks


def _bundles(
    asides: Mapping[str, Sequence[str]], readers: Mapping[str, Sequence[str]], ranks: Mapping[str, int]
) -> list[_Track]:
    """Arrows beside the nodes, those of several sources in one lane where each reader below reads all of them.

    So the layers of a dense block, which read all earlier ones, need one lane.
    """
    bundles: list[tuple[_Track, list[str]]] = []  # with their sources
    for source in sorted(asides, key=lambda source: ranks.get(source, -1)):
        begin, targets = ranks.get(source, -1), asides[source]
        end = max(ranks[reader] for reader in targets) - 1
        for track, sources in bundles:
            below = {reader for other in sources for reader in asides[other] if ranks[reader] > begin}
            if below <= set(readers[source]) and all(set(targets) <= set(readers[other]) for other in sources):
                track.last = max(track.last, end)
                track.arrows += [(source, reader) for reader in targets]
                sources.append(source)
                break
        else:
            track = _Track(begin + 1, end, arrows=[(source, reader) for reader in targets])
            bundles.append((track, [source]))
    return [track for track, _ in bundles]


def _assign_lanes(tracks: Sequence[_Track]) -> None:
    """The first lane, from the left, in which nothing else lies at these ranks."""
    taken: dict[int, list[_Track]] = {}
    for track in tracks:
        for lane in count():
            if all(track.first > other.last or track.last < other.first for other in taken.setdefault(lane, [])):
                track.lane = lane
                taken[lane].append(track)
                break
