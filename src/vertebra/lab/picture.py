"""The picture of a result: title and caption here, the rest by the experiment's `draw`."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from vertebra.errors import require_extra

from .experiment import takes_networks
from .registry import Entry

if TYPE_CHECKING:
    from .result import Result

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "vertebra",  # the same file each time
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Noto Sans CJK JP", "Hiragino Sans", "Yu Gothic", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "legend.frameon": False,
}


def picture(entry: Entry, result: Result, kind: str, language: str = "en") -> bytes:
    """Draw a result as SVG or PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with require_extra("torch", "drawing"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
    experiment = entry.load()
    title, caption = result.claim.title, result.claim.caption
    if result.networks:
        title, caption = result.claim.networks_title or title, result.claim.networks_caption or caption
    with mpl.rc_context(_STYLE):
        canvas = Figure(figsize=(8, 5), dpi=120, layout="constrained")
        canvas.suptitle(f"{result.number}. {title}", x=0.01, ha="left", weight="bold", fontsize=12)
        canvas.supxlabel(textwrap.fill(caption, 118), x=0.01, ha="left", fontsize=9, color="0.3")
        of_networks = takes_networks(experiment) if result.networks else None
        draw = experiment.draw if of_networks is None else of_networks.draw_networks
        draw(result.measured, canvas)
        file = io.BytesIO()
        canvas.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return file.getvalue()
