"""The same measurement and the same rule for each of the user's networks, and one verdict for all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from vertebra.errors import UsageError

from .experiment import Figure, Judgement, Measured, Setup, Verdict

REFUSED = "does not apply"  # the series of networks that were refused: why, by name


class NotApplicableError(UsageError):
    """No network has what an experiment is about."""


def measure_each(
    measure: Callable[[str, nn.Module], Measured], networks: Mapping[str, nn.Module], setup: Setup
) -> Measured:
    """Measure each network, called with its name; figures become "NETWORK: what", and series `networks[NETWORK]`.

    A network that is refused with a `UsageError` is left out, and the reason is kept in the series `REFUSED`.

    Raises:
        NotApplicableError: all are refused.
    """
    figures: dict[str, Figure] = {}
    series: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for done, (name, network) in enumerate(networks.items()):
        setup.progress("networks", done, len(networks))
        try:
            measured = measure(name, network)
        except UsageError as error:
            refused[name] = _about(name, network, str(error))
            continue
        figures |= {f"{name}: {what}": figure for what, figure in measured.figures.items()}
        series[name] = dict(measured.series)
    if not series:
        whole = " ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason(refused).items())
        raise NotApplicableError(whole if len(refused) > 1 else next(iter(refused.values()), "There is no network."))
    return Measured(figures, {"networks": series} | ({REFUSED: refused} if refused else {}))


def by_reason(refused: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of refused networks by the reason, which has "it" in place of the name."""
    names: dict[str, list[str]] = {}
    for name, reason in refused.items():
        # Once: the name may be a word that the reason has again, such as "one".
        about = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "it", reason, count=1).removeprefix("it: ")
        names.setdefault(about, []).append(name)
    return names


def _about(name: str, network: nn.Module, message: str) -> str:
    """A message about a network with its name, where the message has its class."""
    kind = re.escape(type(network).__name__)
    message, count = re.subn(rf"\b[Tt]his {kind}\b|^{kind}\b", lambda _: name, message)
    return message if count or re.match(rf"{re.escape(name)}\b", message) else f"{name}: {message}"


def each_measured(measured: Measured) -> dict[str, Measured]:
    """What `measure_each` got for each network."""
    found = {}
    for name, series in measured.series["networks"].items():
        own = {key: figure for key, figure in measured.figures.items() if key.startswith(f"{name}: ")}
        found[name] = Measured({key.removeprefix(f"{name}: "): figure for key, figure in own.items()}, series)
    return found


def judge_each(
    judge: Callable[[Measured], Judgement], measured: Measured, names: Collection[str] | None = None
) -> Judgement:
    """The judgement that all networks share, or those named; where they differ, it holds in part."""
    each = each_measured(measured)
    judgements = {name: judge(own) for name, own in each.items() if names is None or name in names}
    decided_by = tuple(f"{name}: {what}" for name, j in judgements.items() for what in j.decided_by)
    verdicts = {j.verdict for j in judgements.values()}
    reasons = {j.reason for j in judgements.values()}
    if len(verdicts) > 1:
        return Judgement(Verdict.IN_PART, "It depends on the network: see the figures of each.", decided_by)
    reason = reasons.pop() if len(reasons) == 1 else "The networks agree, for different reasons: see the figures."
    return Judgement(verdicts.pop(), reason, decided_by)
