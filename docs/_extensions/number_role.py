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
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import StrictUndefined, UndefinedError
from jinja2.sandbox import SandboxedEnvironment
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from vertebra.anatomy.roofline import find_device
from vertebra.errors import UsageError, VertebraError
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
        except Exception as error:  # an expression can fail in any way
            hint = "; of a figure one computes with its .value" if "'Figure'" in str(error) else ""
            message = self.inliner.reporter.error(f"{{n}}`{self.text}`: {error}{hint}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        return [nodes.inline(self.rawtext, text, classes=["number"])], []


def evaluate(expression: str, language: str = "en") -> str:
    """The text of an expression's value, with its unit in this language: `"89.4 %"`.

    Raises:
        LookupError: there is no such figure, count or statement; nearest names are in the message.
        TemplateError: it is no expression, or has a name that there is not.
        TypeError: its value is neither a number nor text.
        ValueError: it is NaN or infinite.
    """
    try:
        value = environment().compile_expression(expression, undefined_to_none=False)()
        if isinstance(value, StrictUndefined):
            str(value)  # raises, naming it
    except UndefinedError as error:
        raise UndefinedError(f"{error}{nearest(str(error))}") from None
    unit = ""
    if isinstance(value, Figure):
        value, unit = value.value, Translation(language)(value.unit)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        raise TypeError(f"it is a table; add one of its names: {', '.join(map(str, list(value)[:12]))}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"its value is no number but {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"its value is {value}")
    return number(value, unit)


def nearest(message: str) -> str:
    """What is added to Jinja2's message of a name that there is not: the names of the page's numbers that it may be."""
    name = re.match(r"'(.*)' is undefined", message)
    near = get_close_matches(name[1], environment().globals, 3, 0.5) if name else []
    return f"; nearest: {', '.join(map(repr, near))}" if near else ""


@cache
def environment() -> SandboxedEnvironment:
    """The names and functions of expressions."""
    jinja = SandboxedEnvironment(undefined=StrictUndefined)
    jinja.globals |= read(DOCS / "numbers" / "networks.json")["networks"]
    jinja.globals |= {"lab": lab, "lab_gpu": partial(lab, file="lab_gpu")}
    jinja.globals |= {"paper": paper, "bench": bench, "row": row, "device": device}
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
    """The results of the lab by name of the experiment; those on a GPU are in the file "lab_gpu".

    Raises:
        LookupError: there is no such file, or it has none.
    """
    kept = look_up(read(RESULTS / f"{file}.json"), "results", f"key of bench/results/{file}.json")
    try:
        return {name: Result.from_dict(result) for name, result in kept.items()}
    except (VertebraError, TypeError, ValueError, LookupError) as error:
        raise LookupError(f"bench/results/{file}.json has a damaged result: {error}; run bench/lab.py") from None


def lab(experiment: str, figure: str, file: str = "lab") -> Figure:
    """A figure of an experiment; `.value` is what one computes with."""
    return look_up(look_up(results(file), experiment, "experiment").figures, figure, f"figure of {experiment}")


def paper(name: str, figure: str) -> Any:
    """A number as a paper states it; its table or section stands beside it in `docs/numbers/papers/NAME.json`."""
    file = f"docs/numbers/papers/{name}.json"
    stated = look_up(read(DOCS / "numbers" / "papers" / f"{name}.json"), "figures", f"key of {file}")
    found = look_up(stated, figure, f"figure of {file}")
    if not found.get("where"):
        raise LookupError(f'{file} does not say where the paper states {figure!r}; add its table or section as "where"')
    return look_up(found, "value", f"key of {figure!r} in {file}")


def bench(name: str, *path: str | int) -> Any:
    """A value of `bench/results/NAME.json`, by the keys that lead to it."""
    value = read(RESULTS / f"{name}.json")
    for key in path:
        if isinstance(value, list):
            if not (isinstance(key, int) and key < len(value)):
                raise LookupError(
                    f"{name}.json has {len(value)} rows here and no {key!r}; row(…) finds one by its values"
                )
            value = value[key]
        else:
            value = look_up(value, str(key), f"key of {name}.json")
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
        LookupError: there is none, or it is damaged.
    """
    name = path.relative_to(DOCS.parent)
    if not path.is_file():
        near = get_close_matches(path.stem, [each.stem for each in path.parent.glob("*.json")], 3, 0.5)
        raise LookupError(f"there is no {name}; nearest: {', '.join(near) or 'none'}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LookupError(f"{name} is damaged: {error}") from None


def look_up(table: Any, name: str, what: str) -> Any:
    """`table[name]`.

    Raises:
        LookupError: it has no such name; the message has the nearest ones.
    """
    if not isinstance(table, Mapping):
        raise LookupError(f"there is no {what} {name!r}: what is there is {type(table).__name__}, no table")
    if name not in table:
        near = get_close_matches(name, map(str, table), 3, 0.5)
        raise LookupError(f"there is no {what} {name!r}; nearest: {', '.join(map(repr, near)) or 'none'}")
    return table[name]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role("n", Number())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
