"""Figures: what is drawn where, what they say, and that nobody else's markup gets in."""

import re
import xml.etree.ElementTree as ElementTree
from xml.etree.ElementTree import Element

import pytest
from django.template.loader import render_to_string

from requests_app import charts
from requests_app.charts import Chart, Point, Row

SVG = "{http://www.w3.org/2000/svg}"
UNSEEN = Row("recall_unseen", "0.9375", "0.0208", "0.0417", "0.108", "0.1253", holds=True)
OTHERS = Row("others_kept", "0.8", "0.792", "", "0.99", "0.98", holds=True)
TEXT = Row("perplexity", "12.0", "12.48", "", "1.04", "1.02", holds=False)
EVIL = '<script>alert("x")</script>&\x00'
WITH_DATA = {
    "dumbbell": charts.dumbbell([UNSEEN, OTHERS, TEXT, Row(EVIL, "0.5")]),
    "matrix": charts.matrix([7, 8], [1, 2], [[0.0, 1.0], [0.3, None]], limits=[0.1, 0.1]),
    "distribution": charts.distribution({"before": [0.1, 0.3], "after": [4.0], "control": []}),
    "trend": charts.trend([Point(1, 1.0, 0.99, 1.01), Point(2, None), Point(3, 0.97)], 0.98),
}
EMPTY = {
    "dumbbell": charts.dumbbell([]),
    "nothing measured": charts.dumbbell([Row("recall_unseen")]),
    "matrix": charts.matrix([], [], [], limits=[]),
    "distribution": charts.distribution({"before": [], "after": []}),
    "trend": charts.trend([Point(1, None)], 0.98),
}


def drawn(chart: Chart) -> Element:
    return ElementTree.fromstring(chart.svg)  # noqa: S314


def line_of(chart: Chart, probe: str) -> Element:
    return next(g for g in drawn(chart).iter(f"{SVG}g") if g.get("data-probe") == probe)


def mark_x(line: Element, name: str) -> float:
    """The middle of a mark, whatever its shape."""
    mark = next(each for each in line if each.get("class") == f"mark {name}")
    if mark.tag == f"{SVG}circle":
        return float(mark.get("cx", ""))
    if mark.tag == f"{SVG}rect":
        return float(mark.get("x", "")) + float(mark.get("width", "")) / 2
    found = re.match(r"M([\d.]+)", mark.get("d", ""))
    assert found is not None
    return float(found[1])


def ends(line: Element, kind: str) -> list[tuple[float, float]]:
    """The points of the first line of a kind."""
    found = next(each for each in line if (each.get("class") or "").startswith(kind))
    pairs = [point.split(",") for point in found.get("points", "").split()]
    return [(float(x), float(y)) for x, y in pairs]


def texts(chart: Chart) -> list[str]:
    return [each.text or "" for each in drawn(chart).iter(f"{SVG}text")]


# --- Every figure -------------------------------------------------------------------------------
@pytest.mark.parametrize("chart", [*WITH_DATA.values(), *EMPTY.values()])
def test_a_figure_is_named_scales_and_brings_neither_style_nor_script(chart: Chart) -> None:
    root = drawn(chart)
    assert root.get("role") == "img"
    assert re.fullmatch(r"0 0 440 [\d.]+", root.get("viewBox", ""))
    assert root.get("width") is None
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == chart.title
    names = {attribute for each in root.iter() for attribute in each.keys()}  # noqa: SIM118
    assert "style" not in names
    assert not {name for name in names if name.startswith("on")}
    assert not {each.tag for each in root.iter()} & {f"{SVG}style", f"{SVG}script", f"{SVG}a"}


@pytest.mark.parametrize("chart", WITH_DATA.values(), ids=WITH_DATA)
def test_a_figure_with_data_says_how_to_read_it_and_its_table_is_full(chart: Chart) -> None:
    assert drawn(chart)[1].tag == f"{SVG}desc"
    assert chart.table.rows
    assert {len(row) for row in chart.table.rows} == {len(chart.table.header)}


@pytest.mark.parametrize("chart", EMPTY.values(), ids=EMPTY)
def test_a_figure_without_data_says_so(chart: Chart) -> None:
    assert chart.title == "Nothing was measured"
    assert texts(chart) == ["Nothing was measured"]


def test_text_from_data_is_escaped_in_figure_and_page() -> None:
    chart = charts.dumbbell([Row(EVIL, "0.5", holds=False)])
    page = render_to_string("parts/chart.html", {"chart": chart})
    assert "<script" not in page
    assert "\x00" not in chart.svg
    assert "&lt;script&gt;" in chart.svg
    assert "<details>" in page


def test_a_figure_of_a_hundred_people_stays_below_a_hundred_kilobytes() -> None:
    people = list(range(100))
    values = [[(i * j % 11) / 10 for j in people] for i in range(20)]
    requests = [5 * (i + 1) for i in range(20)]
    chart = charts.matrix(people, requests, values, limits=[0.5] * 100)
    assert len(render_to_string("parts/chart.html", {"chart": chart}).encode()) < 100_000
    assert not [text for text in texts(chart) if text == ".5"]


# --- Before, after, control ---------------------------------------------------------------------
def test_shares_stand_where_they_belong_between_nothing_and_all() -> None:
    line = line_of(WITH_DATA["dumbbell"], "recall_unseen")
    (left, _), (right, _) = ends(line, "scale")
    for name, value in (("before", 0.9375), ("after", 0.0208), ("control", 0.0417)):
        assert mark_x(line, name) == pytest.approx(left + value * (right - left), abs=0.1)
    threshold, _ = ends(line, "threshold")[0]
    assert threshold == pytest.approx(left + 0.1253 * (right - left), abs=0.1)
    whisker = ends(line, "whisker")
    assert whisker[0][0] == pytest.approx(mark_x(line, "after"), abs=0.1)
    assert whisker[1][0] == pytest.approx(left + 0.108 * (right - left), abs=0.1)
    assert "threshold 0.1253" in [each.text for each in line]


@pytest.mark.parametrize(("probe", "after"), [("others_kept", 0.99), ("perplexity", 1.04)])
def test_ratios_are_drawn_around_what_was_before(probe: str, after: float) -> None:
    line = line_of(WITH_DATA["dumbbell"], probe)
    (left, _), (right, _) = ends(line, "scale")
    said = [float(each.text or "") for each in line if re.fullmatch(r"[\d.]+", each.text or "")]
    low, high = said
    assert mark_x(line, "before") == pytest.approx((left + right) / 2)
    place = left + (after - low) / (high - low) * (right - left)
    assert mark_x(line, "after") == pytest.approx(place, abs=0.1)


def test_known_probes_stand_in_one_order_and_others_below() -> None:
    table = charts.dumbbell([Row("leak", "1"), TEXT, UNSEEN]).table
    assert [row[0] for row in table.rows] == ["Person in new wording", "General text", "Leak"]


def test_a_value_that_is_no_share_gets_a_scale_of_its_own() -> None:
    chart = charts.dumbbell([Row("leak", "34", "7", "3", "12", "9")])
    line = line_of(chart, "leak")
    (left, _), (right, _) = ends(line, "scale")
    assert mark_x(line, "before") == pytest.approx(left + 34 / 40 * (right - left), abs=0.1)
    assert chart.table.rows[0][-1] == "from 0 to 40"


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([UNSEEN], "The one value with a threshold is within it"),
        (
            [UNSEEN, OTHERS, Row("gate_fires", "", "1")],
            "All 2 values with a threshold are within it",
        ),
        (
            [UNSEEN, OTHERS, TEXT],
            "2 of 3 values with a threshold are within it; general text is not",
        ),
        ([TEXT], "The one value with a threshold, general text, is not within it"),
        (
            [UNSEEN, Row("perplexity")],
            "The one value with a threshold is within it; general text was not measured",
        ),
        ([Row("gate_fires", "", "1")], "1 value for information, none with a decision"),
    ],
)
def test_the_title_counts_what_is_within_and_names_what_is_not(rows: list[Row], title: str) -> None:
    assert charts.dumbbell(rows).title == title


def test_what_was_not_measured_is_in_the_table_and_not_in_the_drawing() -> None:
    chart = charts.dumbbell([UNSEEN, Row("perplexity", threshold="1.02")])
    assert "General text" not in texts(chart)
    assert chart.table.rows[1][:4] == ("General text", *["not measured"] * 3)
    assert chart.table.rows[1][-2:] == ("not measured", "not drawn")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            Row("perplexity", "inf", "3.5"),
            "before inf, after 3.5, not drawn",
        ),
        (Row("leak", "inf", threshold="1"), "before inf, not drawn"),
    ],
)
def test_what_cannot_be_drawn_is_still_told(row: Row, words: str) -> None:
    assert words in texts(charts.dumbbell([row]))


# --- Requests and people ------------------------------------------------------------------------
def boxes(chart: Chart, kind: str) -> list[tuple[float, float]]:
    """Upper left corners of the cells of a kind, the key's (the last) left out."""
    paths = [each.get("d", "") for each in drawn(chart).iter() if each.get("class") == kind]
    return [
        (float(x), float(y))
        for path in paths
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)h", path)
        if float(y) < 100
    ]


def test_each_cell_lies_under_its_person_and_beside_its_request() -> None:
    chart = WITH_DATA["matrix"]
    wide = (440 - 34 - 4) / 2
    assert sorted(boxes(chart, "heat")) == [(34, 56), (34, 78), (34 + wide, 56)]
    assert boxes(chart, "again") == [(34.8, 78.8)]  # person 7, told again after request 2
    assert [text for text in texts(chart) if text in ("0", ".3", "1", "?")][:4] == [
        "0",
        "1",
        ".3",
        "?",
    ]
    assert chart.table.rows == (("1", "0.00", "1.00"), ("2", "0.30", "not measured"))


@pytest.mark.parametrize(
    ("last", "title"),
    [
        ([0.0, 0.1, 0.0], "After 3 requests nobody is told again above the limit"),
        ([0.0, 0.2, 0.0], "After 3 requests person 5 is told again above the limit"),
        ([0.2, 0.2, 0.0], "After 3 requests persons 4 and 5 are told again above the limit"),
        (
            [0.0, None, 0.0],
            "After 3 requests nobody that was measured is told again above the limit;"
            " 1 of 3 people not measured",
        ),
    ],
)
def test_the_title_says_who_is_told_again_at_the_end(last: list[float | None], title: str) -> None:
    values = [[0.0, 1.0, 1.0], [0.9, 0.0, 1.0], last]
    assert charts.matrix([4, 5, 6], [1, 2, 3], values, limits=[0.1] * 3).title == title


def test_who_is_yet_to_be_erased_is_not_told_again() -> None:
    chart = charts.matrix([1, 2], [1], [[0.0, 1.0]], limits=[0.1, 0.1])
    assert chart.title == "After 1 request nobody is told again above the limit"
    assert boxes(chart, "again") == []


def test_a_matrix_whose_sizes_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a row a request"):
        charts.matrix([1], [1, 2], [[0.0]], limits=[0.1])
    with pytest.raises(ValueError, match="a value a person"):
        charts.matrix([1, 2], [1], [[0.0]], limits=[0.1, 0.1])


# --- Values per item ----------------------------------------------------------------------------
def test_the_distance_of_the_medians_is_the_title_and_the_medians_are_marked() -> None:
    groups = {"before": [0.0, 0.2, 0.4], "after": [3.0, 4.0, 5.0], "control": [4.5, 4.5, 8.0]}
    chart = charts.distribution(groups)
    assert chart.title == (
        "The median loss after erasure is 3.8 nats higher than before"
        " and 0.5 nats lower than the control's"
    )
    assert chart.table.rows[1] == ("after", "3", "3", "3.5", "4", "4.5", "5")
    found = [g for g in drawn(chart).iter(f"{SVG}g") if g.get("data-group")]
    places = [ends(group, "median")[0][0] for group in found]
    assert places == pytest.approx([14 + 412 * median / 8 for median in (0.2, 4, 4.5)], abs=0.1)


def test_the_tallest_bar_of_a_group_stands_where_most_of_its_values_are() -> None:
    chart = charts.distribution({"after": [0.0, 7.9, 7.9, 8.0]})
    bars = next(each for each in drawn(chart).iter() if each.get("class") == "bar after")
    found = re.findall(r"M([\d.]+) ([\d.]+)h[\d.]+v([\d.]+)", bars.get("d", ""))
    heights = {float(x): float(height) for x, _, height in found}
    assert heights == {14.0: pytest.approx(56 / 3, abs=0.1), 408.8: 56.0}


def test_equal_values_and_an_empty_group_are_told() -> None:
    chart = charts.distribution({"before": [0.5], "after": [0.5, 0.5], "control": []})
    assert (
        chart.title == "The median loss after erasure is the same as before; control not measured"
    )
    assert chart.table.rows[2] == ("control", "0", *["not measured"] * 5)


# --- Releases -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("points", "title"),
    [
        (
            [Point(1, 1.0), Point(2, 0.99)],
            "Utility after release 2 is 0.99 times the original model's, above its limit of 0.98",
        ),
        (
            [Point(2, 0.97)],
            "Utility after release 2 is 0.97 times the original model's, below its limit of 0.98",
        ),
        (
            [Point(2, 0.99, 0.96, 1.0), Point(3, None)],
            "Utility after release 2 is 0.99 times the original model's, above its limit of 0.98;"
            " its lower bound 0.96 is below; release 3 not measured",
        ),
    ],
)
def test_the_title_says_the_last_value_and_on_which_side_of_the_limit(
    points: list[Point], title: str
) -> None:
    assert charts.trend(points, 0.98).title == title


def test_releases_stand_on_the_scale_that_the_chart_names_and_gaps_stay_gaps() -> None:
    chart = WITH_DATA["trend"]
    body = drawn(chart)[2]
    marks = [
        (float(x), float(y) + 6)
        for each in body
        if each.get("class") == "mark after"
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)", each.get("d", ""))
    ]
    assert len(marks) == 2
    limit = ends(body, "threshold")[0][1]
    (_, first), (_, last) = marks
    assert (last - limit) / (limit - first) == pytest.approx((0.98 - 0.97) / (1.0 - 0.98), abs=0.02)
    lines = [each for each in body if each.get("stroke-width") == "2" and not each.get("class")]
    assert {len(each.get("points", "").split()) for each in lines} == {1}  # nothing across the gap
    assert chart.table.rows[1] == ("2", "not measured", "none", "none", "0.98")


# --- Training, shares, curves, tolerance ----------------------------------------------------------
def test_losses_say_where_they_began_and_stand_and_count_a_step_once() -> None:
    steps = [charts.Step(i, {"forget_loss": 3.0 - i, "keep_loss": 0.1}) for i in (1, 2)]
    chart = charts.losses([*steps, charts.Step(2, {"forget_loss": 0.5, "keep_loss": 0.1})])
    assert (
        chart.title == "Loss after 2 steps: forgetting fell from 2 to 0.5 and keeping stays at 0.1"
    )
    assert chart.table.rows == (("1", "2", "0.1"), ("2", "0.5", "0.1"))
    drawn(chart)


def test_a_long_training_has_a_short_table_with_its_last_step() -> None:
    chart = charts.losses([charts.Step(i, {"loss": 1 / i}) for i in range(1, 1001)])
    assert len(chart.table.rows) <= 60
    assert chart.table.rows[-1][0] == "1000"


def test_limits_of_a_loss_are_lines_with_their_words() -> None:
    chart = charts.losses([charts.Step(1, {"loss": 0.2})], {"stop at": 4.0})
    assert "stop at 4" in texts(chart)
    assert charts.losses([]).title == "Nothing was measured"


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(0, 52, 0.0, 0.0688), (52, 52, 0.9312, 1.0), (5, 10, 0.2366, 0.7634)],
)
def test_intervals_of_shares_are_wilsons(count: int, n: int, low: float, high: float) -> None:
    found = charts.Share("after", count, n).interval
    assert found == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_share_of_nothing_is_said_and_not_drawn() -> None:
    chart = charts.shares("Found", [charts.Share("control", 0, 0)], unit="facts")
    assert chart.table.rows == (("control", "0", "0", "not measured", "none"),)
    assert not drawn(chart).findall(f".//{SVG}path")


def test_the_area_counts_pairs_with_ties_as_half() -> None:
    chart = charts.roc({"before": ([3, 4], [1, 2]), "after": ([1, 2], [1, 2]), "control": ([], [])})
    rows = {row[0]: row for row in chart.table.rows}
    assert rows["before"][3:] == ("1.000", "1")
    assert rows["after"][3] == "0.500"
    assert rows["control"][3] == "not measured"
    assert "before 1.00 and after 0.50" in chart.title


@pytest.mark.parametrize(
    ("bound", "limit", "within"),
    [
        (0.985, 0.98, True),
        (0.97, 0.98, False),
        (1.01, 1.02, True),
        (1.03, 1.02, False),
        (None, None, None),
    ],
)
def test_a_band_is_judged_by_its_bound(
    bound: float | None, limit: float | None, within: bool | None
) -> None:
    band = charts.Band("General text", 20, 1.0, bound, limit)
    assert band.is_within is within
    title = charts.tolerance([band]).title
    assert title.startswith("Beyond what is tolerated") == (within is False)
