"""Which chunks are made into one part: each in exactly one, in order, few at either end."""

import pytest

from vertebra.cluster.part_plan import ENDS, LEAST, MOST, PartPlan


@pytest.mark.parametrize("is_list", [True, False])
@pytest.mark.parametrize("chunks", [0, 1, 5, 15, 16, 17, 18, 20, 21, 100, 313, 15_600, 100_001])
def test_each_chunk_is_in_one_part(chunks, is_list):
    plan = PartPlan.of(chunks, is_list)
    assert [chunk for part in range(len(plan)) for chunk in plan.chunks_of(part)] == list(range(chunks))
    with pytest.raises(IndexError):
        plan.chunks_of(len(plan))


def test_the_first_and_last_parts_are_small():
    plan = PartPlan.of(1_000, True)
    sizes = [len(plan.chunks_of(part)) for part in range(len(plan))]
    assert sizes[:ENDS] == sizes[-ENDS:] == [1] * ENDS
    assert set(sizes[ENDS : -ENDS - 1]) == {LEAST}
    assert PartPlan.of(10_000_000, True).group == MOST


def test_a_shard_is_a_part():
    assert len(PartPlan.of(50_000, False)) == 50_000
