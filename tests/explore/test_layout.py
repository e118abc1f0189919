"""Lanes and ranks of nodes that read each other."""

import random

import pytest

from vertebra.explore.layout import Layout, lay_out


def assert_free(reads: dict[str, list[str]], layout: Layout) -> None:
    places = {(layout.ranks[node], layout.lanes[node]) for node in reads}
    assert len(places) == len(reads)
    for node, sources in reads.items():
        for source in sources:
            lane, above = layout.arrows[source, node], layout.ranks.get(source, -1)
            assert above < layout.ranks[node]
            assert not [place for place in places if above < place[0] < layout.ranks[node] and place[1] == lane]


def test_a_chain_is_one_lane() -> None:
    layout = lay_out({"a": ["in"], "b": ["a"], "c": ["b"]})
    assert layout.ranks == {"a": 0, "b": 1, "c": 2}
    assert set(layout.lanes.values()) == set(layout.arrows.values()) == {0}


def test_a_skip_takes_the_lane_beside_it() -> None:
    layout = lay_out({"a": ["in"], "b": ["a"], "sum": ["b", "in"]})
    assert layout.arrows["in", "sum"] == 1
    assert set(layout.lanes.values()) == {0}


def test_skips_one_after_the_other_share_a_lane() -> None:
    layout = lay_out({"a": ["in"], "b": ["a"], "s": ["b", "in"], "c": ["s"], "d": ["c"], "t": ["d", "s"]})
    assert (layout.arrows["in", "s"], layout.arrows["s", "t"]) == (1, 1)


def test_skips_across_each_other_do_not() -> None:
    reads = {"a": ["in"], "b": ["a"], "c": ["b", "in"], "d": ["c", "a"]}
    layout = lay_out(reads)
    assert layout.arrows["in", "c"] != layout.arrows["a", "d"]
    assert_free(reads, layout)


def test_what_reads_all_before_it_needs_two_lanes() -> None:
    nodes = [f"n{i}" for i in range(40)]
    reads = {node: ["in", *nodes[:i]] for i, node in enumerate(nodes)}
    layout = lay_out(reads)
    assert set(layout.lanes.values()) == {0}
    assert set(layout.arrows.values()) == {0, 1}
    assert_free(reads, layout)


def test_one_that_reads_less_keeps_the_lanes_apart() -> None:
    reads = {"a": ["in"], "b": ["in", "a"], "c": ["in", "a", "b"], "d": ["a", "c"]}
    layout = lay_out(reads)
    # If both shared a lane, "d" would seem to read "in" as well.
    assert layout.arrows["a", "d"] != layout.arrows["in", "c"]


@pytest.mark.parametrize("seed", range(20))
def test_any_graph_can_be_drawn(seed: int) -> None:
    choose = random.Random(seed)
    nodes = [f"n{i}" for i in range(25)]
    reads = {}
    for i, node in enumerate(nodes):
        known = ["in", "other", *nodes[:i]]
        reads[node] = choose.sample(known, min(len(known), choose.choice((1, 1, 2, 3))))
    assert_free(reads, lay_out(reads))


def test_nothing_and_what_reads_nothing() -> None:
    assert lay_out({}) == Layout({}, {}, {})
    layout = lay_out({"constant": [], "a": ["in"], "b": ["a", "constant"]})
    assert len(set(layout.lanes.items())) == 3
    assert layout.ranks == {"constant": 0, "a": 0, "b": 1}
