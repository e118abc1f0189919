"""The report of a run: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from vertebra.card import Decoding
from vertebra.data import page, thumbnail
from vertebra.intervals import Interval

from ._calibrate import Rejection, softmax
from ._charts import confusion_chart, curve, line_chart, reliability_chart
from ._measure import reliability
from ._run import Held

_THUMBNAILS = 24
_STYLE = (
    "<style>.chart{width:240px;display:inline-block}.chart svg{width:240px}svg text{font-size:10px;fill:currentColor}"
    ".chart figcaption{font-size:12px;text-align:center}.good{color:#2a8a4a}td:nth-child(n+2),th:nth-child(n+2)"
    "{white-space:nowrap}details{margin:.5rem 0}summary{cursor:pointer}code{overflow-wrap:anywhere}"
    ".settings{columns:22rem;font-size:13px}.settings p{margin:0 0 .3rem;break-inside:avoid}</style>"
)


@dataclass(frozen=True)
class Report:
    """What a report shows."""

    title: str
    summary: str  # one sentence
    held: Held
    decoding: Decoding  # of the photos' files
    threshold: float | None = None
    temperature: float = 1.0
    facts: Mapping[str, str] = field(default_factory=dict)  # name -> value, for the table at the end
    audit: str = ""  # HTML
    seconds: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    trials: Sequence[Any] = ()  # strengths that were tried
    notes: Sequence[str] = ()

    def html(self) -> str:
        """The whole page."""
        parts = [
            f"<p>{escape(self.summary)}</p>",
            *(f'<p class="bad">{escape(note)}</p>' for note in self.notes),
            self._numbers(),
            self._trust(),
            self._mistakes(),
            self._classes(),
            self._training(),
        ]
        if self.audit:
            parts.append(f"<h2>The photos</h2><details><summary>Data audit</summary>{self.audit}</details>")
        facts = "".join(f"<p>{escape(k)} <code>{escape(v)}</code></p>" for k, v in self.facts.items())
        if facts:
            parts.append(f'<h2>Settings and origin</h2><div class="settings">{facts}</div>')
        return page(self.title, _STYLE + "".join(parts))

    def _numbers(self) -> str:
        m = self.held.measures
        entries = [
            ("top-1", percent(m.top1), interval(m.top1_interval)),
            ("top-5", percent(m.top5), interval(m.top5_interval)),
            ("balanced accuracy", percent(m.balanced_accuracy), interval(m.balanced_accuracy_interval)),
            (
                "calibration error (ECE)",
                percent(m.ece),
                f"{percent(self.held.ece_before)} before calibration" if m.ece is not None else "of too few photos",
            ),
            ("held-out photos", f"{m.n:,}", self.held.what),
        ]
        if len(m.classes) <= 5:
            del entries[1]
        boxes = "".join(f"<div><b>{a}</b>{escape(name)}<br><small>{escape(b)}</small></div>" for name, a, b in entries)
        small = "<p><small>Intervals hold the true value with 95 % probability.</small></p>"
        return f'<div class="facts">{boxes}</div>{small}'

    def _trust(self) -> str:
        held, wanted = self.held, self.held.rejections[-1]
        if not held.measures.n:
            return f"<h2>How far to trust it</h2><p>{NOT_MEASURED.capitalize()}.</p>"
        calibrated = held.probabilities
        confidence = calibrated.max(axis=1)
        right = (calibrated.argmax(axis=1) == held.labels)[np.argsort(-confidence, kind="stable")]
        shares = np.cumsum(right) / np.arange(1, len(right) + 1)
        steps = np.unique(np.linspace(0, len(right) - 1, 100).astype(int))
        points = [((i + 1) / len(right), float(shares[i])) for i in steps.tolist()]
        charts = (
            reliability_chart("before calibration", reliability(softmax(held.logits), held.labels))
            + reliability_chart(f"after: temperature {self.temperature:.3f}", reliability(calibrated, held.labels))
            + line_chart("answers that are right", "share of photos answered", "share right", points)
        )
        rows = "".join(
            f"<tr><td>{percent(r.target)}</td><td>{'-' if r.threshold is None else f'{r.threshold:.3f}'}</td>"
            f"<td>{percent(r.coverage)}</td><td>{percent(r.precision)}</td><td>{interval(r.precision_interval)}</td>"
            f"<td>{'yes' if r.reached else 'no, ' + str(r).rpartition(': ')[2]}</td></tr>"
            for r in held.rejections[:-1]
        )
        chosen = (
            f"<p>The file answers “unsure” where its best probability is below {self.threshold:.3f}: {{}}</p>"
            if self.threshold is not None
            else "<p>The file answers always, as it has no threshold: {}</p>"
        ).format(f"{f'{wanted}; ' if wanted.target > 0 else ''}{answered(wanted)}.")
        return (
            f"<h2>How far to trust it</h2>{charts}<table><tr><th>target precision</th><th>threshold</th>"
            f"<th>photos answered</th><th>precision</th><th>95 % interval</th><th>reached</th></tr>{rows}</table>"
            "<p><small>Temperature and thresholds are judged on photos that they were not fitted to. A target is "
            "reached where one right answer more and one wrong one, added to the photos that a threshold was chosen "
            f"by, leave its precision.</small></p>{chosen}"
        )

    def _mistakes(self) -> str:
        held, names = self.held, [c.name for c in self.held.measures.classes]
        probabilities = held.probabilities
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1)
        own = probabilities[np.arange(len(held.labels)), held.labels]
        wrong = np.nonzero(predicted != held.labels)[0]
        confused = "".join(
            f"<tr><td>{escape(a)}</td><td>{escape(b)}</td><td>{count}</td></tr>"
            for a, b, count in held.measures.most_confused(12)
        )

        def gallery(places: Any) -> str:
            return (
                '<div class="row">'
                + "".join(
                    thumbnail(
                        held.photos[i].path,
                        f"{names[held.labels[i]]}, taken for {names[predicted[i]]} ({percent(float(confidence[i]))}): "
                        f"{held.photos[i].path.name}",
                        self.decoding,
                    )
                    for i in places[:_THUMBNAILS].tolist()
                )
                + "</div>"
            )

        # A label is suspicious where the classifier is sure of another class and gives the labelled one no chance.
        suspicious = wrong[np.argsort(own[wrong], kind="stable")]
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")]
        # The two lists often agree; each photo is shown once, and first where its label may be the mistake.
        sure = suspicious[(confidence[suspicious] > 0.9)][:_THUMBNAILS]
        rest = worst[~np.isin(worst, sure)]
        if not len(wrong):
            return f"<h2>Mistakes</h2><p>{'None' if held.measures.n else NOT_MEASURED.capitalize()}.</p>"
        return (
            f"<h2>Mistakes: {len(wrong):,}</h2><h3>Most confused</h3><table><tr><th>is</th><th>taken for</th>"
            f"<th>photos</th></tr>{confused}</table>{confusion_chart(names, held.measures.confusion)}"
            f"<h3>Most suspicious labels</h3>{gallery(sure) if len(sure) else '<p>None.</p>'}"
            f"<h3>Worst errors</h3>{gallery(rest) if len(rest) else '<p>None besides these.</p>'}"
        )

    def _classes(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(c.name)}</td><td>{percent(c.precision)}</td><td>{percent(c.recall)}</td>"
            f"<td>{percent(c.f1)}</td><td>{c.photos:,}</td></tr>"
            for c in sorted(self.held.measures.classes, key=lambda c: (c.f1 is None, c.f1, c.name))
        )
        return (
            "<h2>Classes</h2><details open><summary>worst first</summary><table><tr><th>class</th><th>precision</th>"
            f"<th>recall</th><th>F1</th><th>photos</th></tr>{rows}</table></details>"
        )

    def _training(self) -> str:
        charts = "".join(curve(name, values) for name, values in self.curves.items() if len(values) > 1)
        trials = "".join(
            f"<tr><td>{t.strength:g}</td><td>{t.loss:.4f}</td><td>{percent(t.accuracy)}</td></tr>" for t in self.trials
        )
        if trials:
            charts += (
                "<table><tr><th>strength of the regularisation</th><th>loss on the part that chose it</th>"
                "<th>right of that part</th>"
                f"</tr>{trials}</table>"
            )
        times = "".join(f"<tr><td>{escape(k)}</td><td>{v:.1f} s</td></tr>" for k, v in self.seconds.items())
        times += f"<tr><td>together</td><td>{sum(self.seconds.values()):.1f} s</td></tr>" if times else ""
        return f"<h2>Training</h2>{charts}<table>{times}</table>" if charts or times else ""


NOT_MEASURED = "not measured"


def percent(share: float | None) -> str:
    """`"95.3 %"`; `"not measured"` of None."""
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def interval(found: Interval | None) -> str:
    """`"94.0 – 96.5 %"`; nothing of None."""
    return "" if found is None else f"{100 * found[0]:.1f} – {100 * found[1]:.1f} %"


def answered(found: Rejection) -> str:
    """`"93.1 % of the photos were answered, 97.2 % (95.0 – 98.4) of these rightly"`."""
    if found.coverage is None:
        return NOT_MEASURED
    if found.precision is None or found.precision_interval is None:
        return "none of the photos was answered"
    low, high = found.precision_interval
    return (
        f"{percent(found.coverage)} of the photos were answered, {percent(found.precision)} "
        f"({100 * low:.1f} – {100 * high:.1f}) of these rightly"
    )
