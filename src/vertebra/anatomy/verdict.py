"""Describes the largest costs of a network, and what limits its time, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from vertebra.graph.cost import Kind
from vertebra.graph.profile import Profile
from vertebra.graph.rows import Row
from vertebra.units import count, duration, size, three_figures

from .latency import Latency

_MAX_NAMES = 3  # layers named in a sentence
_PLURALS = {
    Kind.DENSE: "dense convolutions",
    Kind.POINTWISE: "1×1 convolutions",
    Kind.GROUPED: "grouped convolutions",
    Kind.DEPTHWISE: "depthwise convolutions",
    Kind.MATMUL: "matrix products",
    Kind.ELEMENTWISE: "element-wise operations",
    Kind.NORM: "norms",
    Kind.POOL: "poolings and sums",
    Kind.COPY: "copies",
    Kind.UNKNOWN: "unknown operations",
}


def verdict(anatomy: Profile, latency: Latency | None = None) -> str:
    """One paragraph on parameters, MACs, memory traffic, peak memory, receptive field and time."""
    sentences = [
        _parameters(anatomy),
        _arithmetic(anatomy),
        _traffic(anatomy),
        _memory(anatomy),
        _receptive_field(anatomy),
        _time(anatomy, latency) if latency is not None else "",
        _not_counted(anatomy),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _parameters(anatomy: Profile) -> str:
    layers = [row for row in anatomy.rows if row.parameters and row.kind is not Kind.NORM]
    if not layers:
        return "There are no weights."
    total = anatomy.parameters
    largest = sorted(layers, key=lambda row: -row.parameters)
    outstanding = [row for row in largest[:_MAX_NAMES] if row.parameters >= 0.1 * total]
    share = sum(row.parameters for row in outstanding) / total
    if share >= 0.5 and len(outstanding) <= len(layers) / 3:
        names = _join_names(row.name for row in outstanding)
        where = f"{len(outstanding)} of {len(layers)} layers"
        return f"{_percent(share)} of the {count(total)} parameters are in {where}: {names}."
    top = largest[0]
    return (
        f"The {count(total)} parameters are spread over {len(layers)} layers; "
        f"the largest, {top.name}, holds {_percent(top.parameters / total)}."
    )


def _arithmetic(anatomy: Profile) -> str:
    if not anatomy.macs:
        return ""
    stages = sorted(anatomy.stages, key=lambda group: -group.macs)
    kinds = _shares(anatomy.rows, "macs")
    kind, share = kinds.most_common(1)[0]
    first = stages[0]
    begin = f"Of the {count(anatomy.macs)}MACs, {_percent(first.macs / anatomy.macs)} are in {first.name}"
    if len(stages) > 2 and stages[1].macs > 0.15 * anatomy.macs:
        begin += f" and {_percent(stages[1].macs / anatomy.macs)} in {stages[1].name}"
    return f"{begin}; {_PLURALS[kind]} account for {_percent(share)}."


def _traffic(anatomy: Profile) -> str:
    """Memory traffic, with the kinds that have a much larger share of it than of the MACs."""
    if not anatomy.bytes:
        return ""
    traffic, computed = _shares(anatomy.rows, "bytes"), _shares(anatomy.rows, "macs")
    parts = [
        f"{_PLURALS[kind]} {_percent(share)}, for {_percent(computed[kind])} of the MACs"
        for kind, share in traffic.most_common()
        if share >= 0.1 and share > 2 * computed[kind] > 0
    ]
    copies = traffic[Kind.COPY]
    if copies >= 0.05:
        parts.append(f"copies (concatenation, padding) {_percent(copies)}")
    unfused = sum(traffic[kind] for kind in (Kind.ELEMENTWISE, Kind.NORM, Kind.POOL))
    parts.append(f"norms, activations, sums and poolings {_percent(unfused)}, where they are not fused")
    return f"Memory traffic is {size(anatomy.bytes)}: {'; '.join(parts)}."


def _memory(anatomy: Profile) -> str:
    peak = anatomy.peak_row
    if peak is None or not peak.live_bytes:
        return ""
    if not anatomy.parameter_bytes:
        return f"Peak activation memory is {size(peak.live_bytes)}, at {peak.name}."
    ratio = anatomy.peak_activation_bytes / anatomy.parameter_bytes
    compared = f"{three_figures(ratio)} times" if ratio >= 1 else f"{_percent(ratio)} of"
    return f"Peak activation memory is {size(peak.live_bytes)}, at {peak.name}: {compared} the weights' memory."


def _receptive_field(anatomy: Profile) -> str:
    """The receptive field of the last feature map before global pooling."""
    layers = [row for row in anatomy.rows if row.receptive_field and row.macs]
    first = next((row for row in layers if row.sees_all), None)
    maps = [row for row in layers if len(row.output_shape) == 4 and max(row.output_shape[2:]) > 1]
    image = next((shape[2:] for shape in anatomy.input_shapes if len(shape) == 4), None)
    if image is None or not maps:
        return ""
    field = maps[-1].receptive_field or ()
    compared = (
        ", larger than the" if all(side > whole for side, whole in zip(field, image, strict=False)) else " of the"
    )
    words = f"Receptive field {' × '.join(map(str, field))}{compared} {' × '.join(map(str, image))} input"
    if first is not None and first.index < maps[-1].index:
        words += f"; global from {first.name} on, through gates"
    return f"{words}."


def _time(anatomy: Profile, latency: Latency) -> str:
    if not latency.kernels:
        return ""
    total = latency.total_ms
    bounds: Counter[str] = Counter()
    kinds: Counter[Kind] = Counter()
    for kernel, time in latency.kernels:
        bounds[time.bound_by] += time.ms / total  # type: ignore[assignment]
        kinds[kernel.main.kind] += time.ms / total  # type: ignore[assignment]
    (bound, bounded), (kind, spent) = bounds.most_common(1)[0], kinds.most_common(1)[0]
    lead = "Lower bound of the time" if latency.is_bound else "Predicted time"
    return (
        f"{lead}: {duration(total)} on {latency.device.name}, {_percent(bounded)} of it bound by {bound}; "
        f"{_PLURALS[kind]} take {_percent(spent)}."
    )


def _not_counted(anatomy: Profile) -> str:
    unused = [row for row in anatomy.rows if row.kind is Kind.UNUSED]
    words = []
    if unused:
        share = sum(row.parameters for row in unused) / anatomy.parameters
        words.append(
            f"{_percent(share)} of the parameters are not used in inference ({_join_names(r.name for r in unused)})."
        )
    if anatomy.unknown:
        names = _join_names(sorted({row.op for row in anatomy.unknown}))
        words.append(f"The arithmetic of {names} is unknown and not counted.")
    return " ".join(words)


def _shares(rows: Iterable[Row], attribute: str) -> Counter[Kind]:
    sums: Counter[Kind] = Counter()
    for row in rows:
        sums[row.kind] += getattr(row, attribute)
    total = sum(sums.values())
    return Counter({kind: value / total for kind, value in sums.items()} if total else {})


def _percent(share: float) -> str:
    """`"89 %"`; "less than 1 %" instead of "0 %" for positive shares."""
    return "less than 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _join_names(names: Iterable[str]) -> str:
    found = list(names)
    shown = found if len(found) <= _MAX_NAMES + 1 else [*found[:_MAX_NAMES], f"{len(found) - _MAX_NAMES} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
