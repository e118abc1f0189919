"""The role `n`: a number from the JSON files of measurements, in the text of a page.

What stands in it is an expression, as Jinja2 has them:

    {n}`lab("vgg-parameters", "share of the parameters")`     a figure of the lab, with its unit
    {n}`lab_gpu("fused-blocks", "cuda, stage1: measured")`    the same of the run on a GPU
    {n}`vgg16.parameters`, {n}`M(vgg16.parameters)`           a count of a network, in full and as 138.4 M
    {n}`paper("vgg", "top-5 error")`                          what a paper states
    {n}`G(device("h100").bandwidth)`                          a device that times are predicted for (devices.toml)
    {n}`times(vgg16.macs / googlenet.macs)`                   a computed one

`bench/results/*.json` have the figures of the lab and of the benchmarks, `docs/numbers/networks.json` the counts and
`docs/numbers/papers/*.json` what each paper states. A name that none of them has is an error, which ends the build.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from vertebra.anatomy.roofline import find_device
from vertebra.errors import UsageError
from vertebra.lab.experiment import Figure
from vertebra.lab.figure_text import number
from vertebra.lab.result import Result
from vertebra.lab.translation import Translation

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "bench" / "results"


class Number(SphinxRole):
    """`{n}` with an expression: the text of its value."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            text = evaluate(self.text, self.config.language)
        except (TemplateError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            message = self.inliner.reporter.error(f"{{n}}`{self.text}`: {error}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        return [nodes.inline(self.rawtext, text, classes=["number"])], []


def evaluate(expression: str, language: str = "en") -> str:
    """The text of an expression's value, with its unit in this language: `"89.4 %"`.

    Raises:
        LookupError: there is no such figure, count or statement; nearest names are in the message.
        TemplateError: it is no expression.
    """
    value = environment().compile_expression(expression, undefined_to_none=False)()
    if isinstance(value, StrictUndefined):
        str(value)  # raises, naming it
    if isinstance(value, Figure):
        return number(value.value, Translation(language)(value.unit))
    return value if isinstance(value, str) else number(value)


@cache
def environment() -> SandboxedEnvironment:
    """The names and functions of expressions."""
    jinja = SandboxedEnvironment(undefined=StrictUndefined)
    jinja.globals |= read(DOCS / "numbers" / "networks.json")["networks"]
    jinja.globals |= {"lab": lab, "lab_gpu": lab_gpu, "paper": paper, "bench": bench, "row": row, "device": device}
    jinja.globals |= {
        "k": lambda value: f"{value / 1e3:,.1f} k",
        "M": lambda value: f"{value / 1e6:,.1f} M",
        "G": lambda value: f"{value / 1e9:,.2f} G",
        "MB": lambda value: f"{value / 1e6:,.1f} MB",
        "GB": lambda value: f"{value / 1e9:,.2f} GB",
        "percent": lambda share: f"{100 * share:.1f} %",
        "times": lambda ratio: f"{ratio:,.3g}" if ratio < 1000 else f"{ratio:,.0f}",
        "digits": lambda value, after=1: f"{value:,.{after}f}",
    }
    return jinja


@cache
def results(file: str = "lab") -> dict[str, Result]:
    """The results of the lab by name of the experiment; those on a GPU are in the file "lab_gpu"."""
    return {name: Result.from_dict(result) for name, result in read(RESULTS / f"{file}.json")["results"].items()}


def lab(experiment: str, figure: str) -> Figure:
    """A figure of an experiment; `.value` is what one computes with."""
    return look_up(look_up(results(), experiment, "experiment").figures, figure, f"figure of {experiment}")


def lab_gpu(experiment: str, figure: str) -> Figure:
    """As `lab`, of the run on a GPU."""
    return look_up(look_up(results("lab_gpu"), experiment, "experiment").figures, figure, f"figure of {experiment}")


def paper(name: str, figure: str) -> Any:
    """A number as a paper states it; its table or section stands beside it in `docs/numbers/papers/NAME.json`."""
    stated = read(DOCS / "numbers" / "papers" / f"{name}.json")
    return look_up(stated["figures"], figure, f"figure of papers/{name}.json")["value"]


def bench(name: str, *path: str | int) -> Any:
    """A value of `bench/results/NAME.json`, by the keys that lead to it."""
    value = read(RESULTS / f"{name}.json")
    for key in path:
        value = value[key] if isinstance(value, list) else look_up(value, str(key), f"key of {name}.json")
    return value


def row(table: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """The row of a table of results with these values: `row(bench("gpu", "forward"), network="vgg16", batch=1)`.

    Raises:
        LookupError: not exactly one row has them.
    """
    found = [each for each in table if keys.items() <= each.items()]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {keys}; give values that one row has")
    return found[0]


def device(key: str) -> dict[str, Any]:
    """A device's operations a second and bytes a second: `device("h100").matrix.float32`, `.vector`, `.bandwidth`."""
    try:
        return find_device(key).to_dict()
    except UsageError as error:
        raise LookupError(str(error)) from None


@cache
def read(path: Path) -> Any:
    """A file of JSON.

    Raises:
        LookupError: there is none.
    """
    if not path.is_file():
        raise LookupError(f"there is no {path.relative_to(DOCS.parent)}")
    return json.loads(path.read_text(encoding="utf-8"))


def look_up(table: Any, name: str, what: str) -> Any:
    """`table[name]`.

    Raises:
        LookupError: it has no such name; the message has the nearest ones.
    """
    if name not in table:
        near = get_close_matches(name, table, 3, 0.5)
        raise LookupError(f"there is no {what} {name!r}; nearest: {', '.join(map(repr, near)) or 'none'}")
    return table[name]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role("n", Number())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
