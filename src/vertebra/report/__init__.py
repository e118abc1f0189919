"""HTML reports: one self-contained file each, which opens offline.

`templates/` has the markup, `style.css` the style that the server's page shares, `page.js` the interaction, and the
modules here format the numbers, which other rooms pass as plain values.
"""

from __future__ import annotations

from .charts import Axis, Chart, Mark, axis, cluster_classes, coverage_chart, line_chart, reliability_chart
from .page import NOT_MEASURED, findings, interval, package_versions, percent, render, shown
from .thumbnails import PhotoLinks, Thumbnails

__all__ = [
    "NOT_MEASURED",
    "Axis",
    "Chart",
    "Mark",
    "PhotoLinks",
    "Thumbnails",
    "axis",
    "cluster_classes",
    "coverage_chart",
    "findings",
    "interval",
    "line_chart",
    "package_versions",
    "percent",
    "reliability_chart",
    "render",
    "shown",
]
