"""One measurement and one rule for several networks."""

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.each_network import REFUSED, NotApplicableError, by_reason, each_measured, judge_each, measure_each
from vertebra.lab.experiment import Figure, Judgement, Measured, Setup, Verdict


def _measured(*values):
    networks = {f"net{i}": nn.Linear(value, 1, bias=False) for i, value in enumerate(values)}

    def measure(name, network):
        return Measured({"width": Figure(network.in_features)}, {"name": name})

    return measure_each(measure, networks, Setup())


def _judge(measured):
    wide, even = measured.value("width") > 5, measured.value("width") % 2 == 0
    reason = "Even." if even else "Odd."
    return Judgement(Verdict.HOLDS if wide else Verdict.FAILS, reason, ("width",))


def test_figures_are_named_after_the_network_and_found_again():
    measured = _measured(6, 8)
    assert measured.value("net1: width") == 8
    assert each_measured(measured)["net0"] == Measured({"width": Figure(6)}, {"name": "net0"})


def test_a_name_that_another_begins_with_gets_its_own_figures_alone():
    networks = {"net": nn.Linear(1, 1), "net: two": nn.Linear(2, 1)}
    measured = measure_each(lambda name, network: Measured({"n": Figure(network.in_features)}), networks, Setup())
    assert each_measured(measured)["net: two"].value("n") == 2


def test_one_verdict_for_all():
    assert judge_each(_judge, _measured(6, 8)) == Judgement(
        Verdict.HOLDS, "Even.", ("net0: width", "net1: width")
    )  # fmt: skip
    assert judge_each(_judge, _measured(2, 4)).verdict is Verdict.FAILS
    differing = judge_each(_judge, _measured(2, 8))
    assert differing.verdict is Verdict.IN_PART and "depends on the network" in differing.reason
    same = judge_each(_judge, _measured(6, 7))
    assert same.verdict is Verdict.HOLDS and "different reasons" in same.reason


def _measure_wide(name, network):
    if network.in_features < 3:
        raise UsageError(f"no room in this Linear of {network.in_features}.")
    return Measured({"width": Figure(network.in_features)})


def test_a_network_that_is_refused_leaves_the_others_their_verdict():
    networks = {"small": nn.Linear(2, 1), "large": nn.Linear(8, 1)}
    measured = measure_each(_measure_wide, networks, Setup())
    assert measured.series[REFUSED] == {"small": "no room in small of 2."}
    assert judge_each(_judge, measured) == Judgement(Verdict.HOLDS, "Even.", ("large: width",))


def test_where_all_are_refused_the_reasons_name_each():
    with pytest.raises(NotApplicableError, match=r"^one: no room in it of 1. two, three: no room in it of 2.$"):
        measure_each(_measure_wide, {"one": nn.Linear(1, 1), "two": nn.Linear(2, 1), "three": nn.Linear(2, 1)}, Setup())


def test_a_name_that_is_a_word_of_the_reason_too_is_replaced_once():
    assert by_reason({"one": "one has no two maps at one size.", "net": "net: too few."}) == {
        "it has no two maps at one size.": ["one"],
        "too few.": ["net"],
    }


def test_a_reason_without_the_network_gets_its_name():
    def refuse(name, network):
        raise UsageError("a ratio needs two.")

    with pytest.raises(NotApplicableError, match=r"^ratio: a ratio needs two.$"):
        measure_each(refuse, {"ratio": nn.Linear(1, 1)}, Setup())
