"""Figures as SVG for pages, print and files: plain values in, markup out, and the same as a table.

A title states the finding. Marks differ in shape and carry words, never only a colour. What was not
measured is said, not drawn.
"""

from requests_app.charts.curves import roc
from requests_app.charts.drawing import Chart, Table
from requests_app.charts.items import distribution
from requests_app.charts.people import matrix
from requests_app.charts.probes import Row, dumbbell
from requests_app.charts.releases import Point, trend
from requests_app.charts.shares import Share, shares
from requests_app.charts.tolerance import Band, tolerance
from requests_app.charts.training import Step, losses

__all__ = [
    "Band",
    "Chart",
    "Point",
    "Row",
    "Share",
    "Step",
    "Table",
    "distribution",
    "dumbbell",
    "losses",
    "matrix",
    "roc",
    "shares",
    "tolerance",
    "trend",
]
