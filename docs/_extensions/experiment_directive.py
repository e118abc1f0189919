"""The directive `experiment`: a claim, what decided it and its picture, from the results of the lab.

    ```{experiment} vgg-parameters
    :figures: parameters; parameters: fully connected
    :run:
    ```

It shows who says what, the verdict with its reason, the figures that decided it and those named in `:figures:` beside
what was expected, the rule and the picture, all in the language of the build. With `:run:` the experiment runs now, and
a verdict other than the one on record ends the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from number_role import look_up, results
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import table

from vertebra.errors import VertebraError
from vertebra.lab.figure_text import comparison, number
from vertebra.lab.result import Result
from vertebra.lab.statement import claim_of, figure_text, said_by
from vertebra.lab.translation import Translation

# What the lab's own pages do not say.
WORDS = {"en": {"verdict": "We measured", "rule": "Rule"}, "ja": {"verdict": "測定結果", "rule": "規則"}}


class Experiment(SphinxDirective):
    """One experiment of the lab."""

    required_arguments = 1
    option_spec: ClassVar = {"figures": directives.unchanged, "run": directives.flag, "no-picture": directives.flag}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        try:
            result = look_up(results(), name, "experiment")
            more = [each.strip() for each in self.options.get("figures", "").split(";") if each.strip()]
            shown = list(dict.fromkeys([*result.decided_by, *more]))
            for each in shown:
                look_up(result.figures, each, f"figure of {name}")
            if "run" in self.options:
                again(result)
            return [self.box(result, shown)]
        except (LookupError, VertebraError) as error:
            raise self.error(str(error)) from None

    def box(self, result: Result, shown: Iterable[str]) -> nodes.Node:
        language = self.config.language
        t, words = Translation(language), WORDS[language]
        box = nodes.container(classes=["experiment", f"verdict-{result.verdict.replace(' ', '-')}"])
        title = nodes.paragraph("", "", classes=["experiment-title"])
        title += nodes.strong("", f"{result.number} {t(result.title)}")
        title += nodes.literal("", f"vertebra lab run {result.name}")
        box += title
        states = said_by(result.claim.stated_by, t)
        box += said(states[0].upper() + states[1:], claim_of(result, t))
        measured = said(words["verdict"], t(result.reason))
        measured[1:1] = [nodes.Text(" "), nodes.inline("", t(result.verdict), classes=["verdict"])]
        box += measured
        box += self.table(result, shown, t)
        box += said(words["rule"], t(result.claim.rule), "rule")
        if "no-picture" not in self.options:
            box += self.picture(result, language, t)
        return box

    def table(self, result: Result, shown: Iterable[str], t: Translation) -> nodes.Node:
        rows = [[t("figure"), t("measured"), t("expected")]]
        for name in shown:
            expected = result.claim.expected.get(name)
            told = ""
            if expected is not None:
                figure = result.figures[name]
                word = comparison(figure.value, expected.value, expected.tolerance, figure.interval)
                told = f"{number(expected.value, t(figure.unit))} ({t(expected.source)}): {t(word)}"
            rows.append([t(name), unbroken(figure_text(result.figures[name], t)), unbroken(told)])
        return table(rows if any(row[2] for row in rows[1:]) else [row[:2] for row in rows], "experiment-figures")

    def picture(self, result: Result, language: str, t: Translation) -> nodes.Node:
        folder = Path(self.env.app.outdir) / "_images" / "lab"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{result.name}.svg").write_bytes(result.picture("svg", language))
        up = "../" * self.env.docname.count("/")
        alt = escape(f"{t(result.title)}. {t(result.caption)}")
        return nodes.raw("", f'<img class="plot" src="{up}_images/lab/{result.name}.svg" alt="{alt}">', format="html")


def unbroken(text: str) -> str:
    """A number with its unit, and "n = 3", stay on one line."""
    return re.sub(r"(?<=\d) (?=[^\s(])|(?<=n) (?==)|(?<==) ", "\u00a0", text)


def said(label: str, text: str, kind: str = "claim") -> nodes.Node:
    paragraph = nodes.paragraph(classes=[f"experiment-{kind}"])
    paragraph += nodes.strong("", label)
    paragraph += nodes.inline("", f" {text}")
    return paragraph


def again(result: Result) -> None:
    """Run the experiment now.

    Raises:
        LookupError: its verdict is another.
    """
    from vertebra import lab

    now = lab.run(result.name, fresh=True)
    if now.verdict != result.verdict:
        was = f"bench/results/lab.json has {str(result.verdict)!r}"
        raise LookupError(f"{result.name} gives {str(now.verdict)!r} now, {was}; python bench/lab.py measures again")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("experiment", Experiment)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
