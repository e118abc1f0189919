"""Predicted against measured latency: every network of up to 20 GMACs, batch 1, in ONNX Runtime and in torch.

The calibration times networks drawn at random and none of ours, so that all of ours are held out. A network is timed
again, at most n times, while its runs differ by more than 5 % between their quartiles or other programs take more than
5 % of the processor; the calmest timing counts. That the graphs that are timed take as long as exported files is
measured on a few of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _common

MAX_GMACS = 20
N = 2
SECONDS = 1.2
CALM = 0.05
EXPORTED = ("mobilenet_v2", "densenet121", "resnet50")
REQUIRED = {"spearman": 0.97, "median_error": 0.2}
LABELS = {"onnxruntime": "ONNX Runtime", "torch": "torch, channels last"}


def measure(n: int) -> Path:
    results = {executor: measure_executor(executor, n) for executor in LABELS}
    return save(results, measure_exported(n))


def save(results: Mapping[str, Any], exported: Mapping[str, Any]) -> Path:
    plot(results, _common.RESULTS / "roofline.png")
    document = {"required": REQUIRED, "executors": results, "exported": exported}
    return _common.write("roofline", ("torch", "onnxruntime"), document)


def measure_executor(executor: str, n: int) -> dict[str, Any]:
    """A calibration, and predicted beside measured for all networks."""
    from scipy.stats import spearmanr

    import vertebra
    from vertebra.anatomy import predict
    from vertebra.anatomy.machine_calibration import calibrate
    from vertebra.models import get_family

    calibration = min((calibrate(executor) for _ in range(n)), key=lambda found: max(found.noise, found.others))
    networks = {}
    for name in vertebra.list_models(max_gmacs=MAX_GMACS):
        anatomy = vertebra.anatomy(name)
        best = _calmest(lambda taken=anatomy: taken.measure(executor, SECONDS), n)
        predicted = predict(anatomy, calibration).total_ms
        networks[name] = {
            "family": get_family(name),
            "gmacs": round(anatomy.macs / 1e9, 3),
            "measured_ms": round(best.total_ms, 2),
            "quartiles_ms": [round(value, 2) for value in best.quartiles_ms],
            "runs": best.runs,
            "predicted_ms": round(predicted, 2),
            "error": round(predicted / best.total_ms - 1, 4),
        }
        print(f"{executor} {name:20} {best.total_ms:8.2f} measured {predicted:8.2f} predicted", flush=True)
    errors = {name: abs(found["error"]) for name, found in networks.items()}
    columns = [[found[key] for found in networks.values()] for key in ("measured_ms", "predicted_ms", "gmacs")]
    return {
        "calibration": calibration.to_dict(),
        "spearman": round(float(spearmanr(columns[0], columns[1]).statistic), 4),
        "spearman_of_macs": round(float(spearmanr(columns[0], columns[2]).statistic), 4),
        "median_error": round(statistics.median(errors.values()), 4),
        "largest_error": max(errors.items(), key=lambda item: item[1]),
        "networks": networks,
    }


def _calmest(run: Any, n: int) -> Any:
    """The first measurement in peace, or of n the one with least unrest."""
    from vertebra.anatomy.machine_calibration import busy_seconds

    found = []
    for _ in range(n):
        start, busy = time.perf_counter(), busy_seconds()
        measurement = run()
        others = (busy_seconds() - busy) / (time.perf_counter() - start) / (os.cpu_count() or 1)
        low, high = measurement.quartiles_ms
        found.append((max((high - low) / measurement.total_ms, others), measurement))
        if found[-1][0] <= CALM:
            break
    return min(found, key=lambda item: item[0])[1]


def measure_exported(n: int) -> dict[str, Any]:
    """The graph with made-up weights against the file that `vertebra export` writes, both in ONNX Runtime."""
    import numpy as np
    import onnxruntime

    import vertebra
    from vertebra.export import export

    found = {}
    for name in EXPORTED:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export(name, path, weights=None)
            session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        x = session.get_inputs()[0]
        image = np.random.default_rng(0).integers(0, 256, (1, *x.shape[1:]), dtype=np.uint8)
        seconds = []
        for _ in range(n):
            end = time.perf_counter() + SECONDS / 2
            while time.perf_counter() < end:
                start = time.perf_counter()
                session.run(["probabilities"], {x.name: image})
                seconds.append(time.perf_counter() - start)
        made_up = _calmest(lambda model=name: vertebra.anatomy(model).measure("onnxruntime", SECONDS), n)
        found[name] = {
            "exported_ms": _common.summary(seconds, 1000),
            "made_up_ms": round(made_up.total_ms, 2),
        }
    return found


def plot(results: Mapping[str, Any], path: Path) -> None:
    """One panel an executor: measured across, predicted upwards, both logarithmic, with the band of ±20 %."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(11, 5.2), layout="constrained")
    families = sorted({found["family"] for result in results.values() for found in result["networks"].values()})
    for panel, (executor, result) in zip(panels, results.items(), strict=True):
        networks = result["networks"].values()
        ends = [
            pick(found[key] for found in networks) * factor
            for pick, factor, key in ((min, 0.7, "measured_ms"), (max, 1.4, "measured_ms"))
        ]
        panel.plot(ends, ends, color="0.3", linewidth=1)
        panel.fill_between(ends, [0.8 * end for end in ends], [1.2 * end for end in ends], color="0.9", label="±20 %")
        for family in families:
            points = [(f["measured_ms"], f["predicted_ms"]) for f in networks if f["family"] == family]
            panel.scatter(*zip(*points, strict=True), label=family, s=28, zorder=3)
        panel.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms")
        panel.set_title(
            f"{LABELS[executor]}: Spearman {result['spearman']:.3f}, median error {result['median_error']:.1%}"
        )
        panel.set_aspect("equal")
        panel.grid(which="major", color="0.92")
    panels[0].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def render(document: dict[str, Any]) -> str:
    rows = []
    for executor, result in document["executors"].items():
        name, error = result["largest_error"]
        rows.append(
            (
                LABELS[executor],
                len(result["networks"]),
                f"**{result['spearman']:.3f}**",
                f"{result['spearman_of_macs']:.3f}",
                f"**{result['median_error']:.1%}**",
                f"{error:.0%} ({name})",
                f"{result['calibration']['seconds']:.1f} s",
            )
        )
    headings = ("batch 1", "networks", "Spearman", "of MACs alone", "median error", "largest", "calibration")
    exported = ", ".join(
        f"{name} {found['made_up_ms']:.1f} against {found['exported_ms']['median']:.1f} ms"
        for name, found in document["exported"].items()
    )
    return (
        f"{_common.table(headings, rows)}\n\nAll networks of up to {MAX_GMACS} GMACs, none of them part of the "
        f"calibration. The graphs that are timed in ONNX Runtime have random weights and take as long as exported "
        f"files: {exported}. {_common.footnote(document)}"
    )


if __name__ == "__main__":
    _common.main("roofline", measure, render, N)
