"""The picture of a result: title and caption here, the rest by the experiment's `draw`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vertebra.errors import require_extra
from vertebra.text_width import fill

from .experiment import takes_networks
from .registry import Entry
from .translation import Translation

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from .result import Result

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "vertebra",  # the same file each time
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "legend.frameon": False,
}
_FONT = "DejaVu Sans"
# For Japanese, where one of them is installed; who opens an SVG may have others.
_JAPANESE = ("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "Meiryo", "IPAexGothic", "TakaoPGothic")
_CAPTION_WIDTH = 118  # columns


def picture(entry: Entry, result: Result, kind: str, language: str = "en") -> bytes:
    """Draw a result as SVG or PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with require_extra("torch", "drawing"):
        from matplotlib.figure import Figure
    experiment, t = entry.load(), Translation(language, result.networks)
    with style(language):
        canvas = Figure(figsize=(8, 5), dpi=120, layout="constrained")
        canvas.suptitle(f"{result.number}. {t(result.title)}", x=0.01, ha="left", weight="bold", fontsize=12)
        canvas.supxlabel(fill(t(result.caption), _CAPTION_WIDTH), x=0.01, ha="left", fontsize=9, color="0.3")
        of_networks = takes_networks(experiment) if result.networks else None
        draw = experiment.draw if of_networks is None else of_networks.draw_networks
        draw(result.measured, canvas)
        if language != "en":
            _translate(canvas, t)
        return file_of(canvas, kind)


@contextmanager
def style(language: str) -> Iterator[None]:
    """Inside, matplotlib draws as all pictures of the lab are drawn."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE | {"font.family": _fonts(language)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # an SVG holds text, not glyphs
        yield


def file_of(canvas: Canvas, kind: str) -> bytes:
    """A picture as SVG or PNG, the same bytes each time."""
    file = io.BytesIO()
    canvas.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return file.getvalue()


def _fonts(language: str) -> list[str]:
    if language == "en":
        return [_FONT]
    from matplotlib.font_manager import fontManager

    here = {font.name for font in fontManager.ttflist}
    return [_FONT, *(name for name in _JAPANESE if name in here)]


def _translate(canvas: Canvas, t: Translation) -> None:
    """Translate all texts of a picture; those of ticks come from formatters when it is drawn."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            # `set_yticks` with labels makes a `FuncFormatter`; those of numbers have to keep their axis.
            is_of_names = isinstance(formatter, FixedFormatter | FuncFormatter)
            if is_of_names or type(formatter).__name__ == "StrCategoryFormatter":
                axis.set_major_formatter(FuncFormatter(_translated(formatter, t)))
    for text in canvas.findobj(Text):
        text.set_text("\n".join(map(t, text.get_text().split("\n"))))


def _translated(formatter: Any, t: Translation) -> Callable[[float, int | None], str]:
    def label(value: float, place: int | None = None) -> str:
        return "\n".join(map(t, str(formatter(value, place)).split("\n")))

    return label
