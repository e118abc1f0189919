"""Losses of twenty training steps by Vertebra's kernels, beside torch's layers, and beside what rounding alone does.

Training multiplies small differences, so losses of two ways to compute a step drift apart. How far they may is shown by
torch's own layers from weights that differ by 1e-7 of their values, and by the same layers with NCHW memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
BATCH, SIZE, CLASSES, PERTURBATION = 16, 224, 100, 1e-7
PLAIN = "torch's layers, channels-last"
PERTURBED, NCHW, OURS = "weights × (1 ± 1e-7)", "NCHW", "Vertebra's kernels"


def losses(network: str, subject: str, steps: int) -> list[float]:
    import torch

    from vertebra.cpu_kernels import fuse
    from vertebra.models import create_model

    torch.manual_seed(0)
    built = create_model(network, weights=None, num_classes=CLASSES).train()
    layout = torch.contiguous_format if subject == NCHW else torch.channels_last
    built.to(memory_format=layout)
    if subject == PERTURBED:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.mul_(1 + PERTURBATION * torch.randn_like(parameter).sign())
    module = fuse(built) if subject == OURS else built
    optimizer = torch.optim.SGD(built.parameters(), 0.01, momentum=0.9, fused=True)
    found = []
    for step in range(steps):
        torch.manual_seed(1 + step)  # of the images, dropout and stochastic depth
        images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=layout)
        labels = torch.randint(0, CLASSES, (BATCH,))
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def measure(n: int) -> Path:
    rows: dict[str, Any] = {}
    for network in NETWORKS:
        rows[network] = {subject: losses(network, subject, n) for subject in (PLAIN, PERTURBED, NCHW, OURS)}
        rows[network]["equal_when_run_again"] = losses(network, OURS, n) == rows[network][OURS]
        print(network, rows[network], flush=True)
    return _common.write("step_losses", ("torch",), {"unit": "loss of each step", "batch": BATCH, "rows": rows})


def render(document: dict[str, Any]) -> str:
    rows = []
    for network, found in document["rows"].items():
        for subject in (PERTURBED, NCHW, OURS):
            differences = [abs(a - b) / b for a, b in zip(found[subject], found[PLAIN], strict=True)]
            rows.append(
                [
                    network,
                    subject,
                    *(f"{differences[step]:.0e}" for step in (0, 6, len(differences) - 1)),
                    f"{max(differences):.0e}",
                ]
            )
    heads = ["network", "beside torch's layers", "1st loss", "7th", "last", "largest difference"]
    steps = len(next(iter(document["rows"].values()))[OURS])
    same = all(found["equal_when_run_again"] for found in document["rows"].values())
    again = "equal bit for bit" if same else "**not** equal bit for bit"
    note = (
        f"Relative differences of the losses of {steps} steps, batch {document['batch']}, random images; the kernels' "
        f"losses are {again} when run again. {_common.footnote(document)}"
    )
    return f"{_common.table(heads, rows)}\n\n{note}"


if __name__ == "__main__":
    _common.main("step_losses", measure, render, n=20)
