"""An order of classes in which those that are mistaken for one another are neighbours."""

from __future__ import annotations

from collections.abc import Iterable


def clustered(count: int, mistakes: Iterable[tuple[int, int, int]]) -> list[int]:
    """The classes 0 to `count` - 1 in such an order.

    Chains are joined at their ends, the most frequent mistake (true, predicted, photos) first (single linkage); classes
    that are never mistaken follow in their own order.
    """
    both: dict[tuple[int, int], int] = {}
    for true, predicted, photos in mistakes:
        if true != predicted:
            pair = (min(true, predicted), max(true, predicted))
            both[pair] = both.get(pair, 0) + photos
    chain_of = {index: [index] for index in range(count)}
    for one, other in sorted(both, key=lambda pair: (-both[pair], pair)):
        first, second = chain_of[one], chain_of[other]
        if first is second:
            continue
        if first.index(one) < len(first) // 2:
            first.reverse()
        if second.index(other) >= (len(second) + 1) // 2:
            second.reverse()
        first.extend(second)
        for index in second:
            chain_of[index] = first
    chains = {id(chain): chain for chain in chain_of.values()}
    # Largest clusters first.
    return [index for chain in sorted(chains.values(), key=lambda chain: (-len(chain), min(chain))) for index in chain]
