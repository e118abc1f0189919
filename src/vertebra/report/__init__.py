"""The pages that are written: one HTML file each, which opens offline and brings all that it shows.

`templates/` has their markup, `style.css` the look that they share with the server's page, `page.js` what is done on
them, and the modules here the numbers: what is measured comes as plain values from the rooms above.
"""

from __future__ import annotations

from .charts import Axis, Chart, Mark, axis, clustered, coverage_chart, line_chart, reliability_chart
from .page import NOT_MEASURED, findings, interval, percent, render, shown, versions
from .pictures import Folder, Pictures

__all__ = [
    "NOT_MEASURED",
    "Axis",
    "Chart",
    "Folder",
    "Mark",
    "Pictures",
    "axis",
    "clustered",
    "coverage_chart",
    "findings",
    "interval",
    "line_chart",
    "percent",
    "reliability_chart",
    "render",
    "shown",
    "versions",
]
