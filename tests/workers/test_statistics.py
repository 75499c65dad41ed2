"""Tables, closed forms and measured coverage of what every bound and verdict rests on."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workers import statistics
from workers.statistics import (
    achieved_margin,
    auc,
    bootstrap,
    equivalence,
    holm,
    ks,
    needed,
    share,
    sign_flip_p,
    student_t,
    upper_bound,
)

# Of 64ths, so that 1 - x is exact.
UNIT = st.lists(st.integers(0, 64).map(lambda x: x / 64), min_size=1, max_size=15)
REAL = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=15)
P_VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)
Draw = Callable[[random.Random], float]


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def uniform(draw: random.Random) -> float:
    return draw.random()


def mostly_zero(draw: random.Random) -> float:
    return draw.random() if draw.random() < 0.1 else 0.0


def zero_or_one(draw: random.Random) -> float:
    return float(draw.random() < 0.1)


def coverage(
    item: Draw, mean: float, n: int, *, runs: int, draws: int = 99, bounded: bool = True
) -> tuple[float, float]:
    """How often the lower and the upper bound of `runs` samples lie on their side of `mean`."""
    source = seeded(n)
    below = above = 0
    for run in range(runs):
        items = [item(source) for _ in range(n)]
        found = bootstrap(items, draws=draws, seed=run, bounded=bounded)
        below += found.lower <= mean
        above += mean <= found.upper
    return below / runs, above / runs


# Shares


@pytest.mark.parametrize(
    ("hits", "trials", "lower", "upper"),
    # 0 of n: 1 - 0.05 ** (1 / n). The others: quantiles of the beta distribution.
    [
        (0, 1, 0.0, 0.95),
        (0, 20, 0.0, 0.13911),
        (0, 299, 0.0, 0.00997),
        (1, 20, 0.00256, 0.21611),
        (10, 20, 0.30195, 0.69805),
        (20, 20, 0.86089, 1.0),
    ],
)
def test_a_share_has_the_bounds_of_clopper_and_pearson(
    hits: int, trials: int, lower: float, upper: float
) -> None:
    found = share(hits, trials)
    assert (found.value, found.n) == (hits / trials, trials)
    assert (found.lower, found.upper) == (
        pytest.approx(lower, abs=1e-5),
        pytest.approx(upper, abs=1e-5),
    )


@given(st.integers(1, 200), st.data())
def test_the_bounds_of_a_share_leave_out_exactly_alpha(trials: int, data: st.DataObject) -> None:
    hits, alpha = data.draw(st.integers(0, trials - 1)), data.draw(st.sampled_from([0.01, 0.05]))
    bound = upper_bound(hits, trials, alpha=alpha)
    left = (math.comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(hits + 1))
    assert math.fsum(left) == pytest.approx(alpha, rel=1e-6)
    assert share(trials - hits, trials, alpha=alpha).lower == 1 - bound
    assert hits / trials < bound <= upper_bound(hits + 1, trials, alpha=alpha)


@pytest.mark.parametrize(("trials", "p"), [(12, 0.1), (26, 0.1), (26, 0.5), (52, 0.02)])
def test_the_bounds_of_a_share_cover_it_at_least_as_often_as_they_say(
    trials: int, p: float
) -> None:
    chance = [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
    found = [share(k, trials) for k in range(trials + 1)]
    assert math.fsum(c for c, s in zip(chance, found, strict=True) if s.upper >= p) >= 0.95
    assert math.fsum(c for c, s in zip(chance, found, strict=True) if s.lower <= p) >= 0.95


# Means


@pytest.mark.parametrize("n", [12, 26, 52])
def test_the_bounds_of_uniform_items_cover_their_mean(n: int) -> None:
    below, above = coverage(uniform, 0.5, n, runs=400)
    assert min(below, above) >= 0.94


@pytest.mark.parametrize("n", [12, 26, 52])
@pytest.mark.parametrize(("item", "mean"), [(mostly_zero, 0.05), (zero_or_one, 0.1)])
def test_the_bounds_of_items_that_are_mostly_zero_cover_their_mean(
    item: Draw, mean: float, n: int
) -> None:
    below, above = coverage(item, mean, n, runs=300)
    assert min(below, above) >= 0.93


def test_the_percentile_bootstrap_would_not_cover_them() -> None:
    source, covered = seeded(12), 0
    for _ in range(300):
        items = [mostly_zero(source) for _ in range(26)]
        means = sorted(fmean(source.choices(items, k=26)) for _ in range(99))
        covered += means[94] >= 0.05
    assert covered / 300 < 0.88


@pytest.mark.parametrize("n", [12, 26, 52])
def test_without_a_range_the_bounds_of_uniform_items_cover_their_mean(n: int) -> None:
    below, above = coverage(uniform, 0.5, n, runs=300, bounded=False)
    assert min(below, above) >= 0.93


@pytest.mark.parametrize(("hits", "n"), [(1, 12), (3, 26), (40, 52)])
def test_for_items_of_zero_and_one_the_bootstrap_is_clopper_and_pearsons(hits: int, n: int) -> None:
    found = bootstrap([1.0] * hits + [0.0] * (n - hits), draws=20_000, seed=3)
    exact = share(hits, n)
    assert found.value == pytest.approx(exact.value)
    assert found.lower == pytest.approx(exact.lower, abs=0.004)
    assert found.upper == pytest.approx(exact.upper, abs=0.004)


@pytest.mark.parametrize("n", [1, 12, 26])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_items_leave_the_room_that_their_number_leaves(value: float, n: int) -> None:
    found = bootstrap([value] * n, draws=99, seed=1)
    assert found.value == value
    assert found.lower == pytest.approx(value * 0.05 ** (1 / n))
    assert found.upper == pytest.approx(1 - (1 - value) * 0.05 ** (1 / n))


@pytest.mark.parametrize("n", [1, 26])
def test_equal_items_without_a_range_bound_nothing(n: int) -> None:
    found = bootstrap([0.3] * n, draws=99, seed=1, bounded=False)
    assert (found.lower, found.upper) == (-math.inf, math.inf)


def test_two_items_without_a_range_bound_nothing_either_since_half_their_samples_are_equal() -> (
    None
):
    found = bootstrap([0.0, 1.0], draws=99, seed=1, bounded=False)
    assert (found.lower, found.upper) == (-math.inf, math.inf)


def test_a_range_stretches_the_bounds() -> None:
    items = [0.1, 0.4, 0.4, 0.9, 0.2]
    unit = bootstrap(items, draws=199, seed=4)
    wide = bootstrap([2 * x - 1 for x in items], draws=199, seed=4, within=(-1.0, 1.0))
    for one, other in zip(
        (unit.value, unit.lower, unit.upper), (wide.value, wide.lower, wide.upper), strict=True
    ):
        assert 2 * one - 1 == pytest.approx(other)


def test_the_bounds_of_a_mean_lie_close_to_students_for_many_items() -> None:
    source = seeded(8)
    items = [source.random() for _ in range(400)]
    reach = student_t(0.95, 399) * stdev(items) / 20
    for bounded in (True, False):
        found = bootstrap(items, draws=1999, seed=1, bounded=bounded)
        assert found.upper - found.value == pytest.approx(reach, rel=0.12)
        assert found.value - found.lower == pytest.approx(reach, rel=0.12)


@given(UNIT, st.sampled_from([0.01, 0.05, 0.2]), st.integers(0, 99))
def test_the_bounds_of_a_mean_hold_it_and_mirror_each_other(
    items: list[float], alpha: float, seed: int
) -> None:
    found = bootstrap(items, draws=99, seed=seed, alpha=alpha)
    assert 0.0 <= found.lower <= found.value <= found.upper <= 1.0
    assert found.upper >= 1 - (1 - found.value) * alpha ** (1 / len(items)) - 1e-12
    assert found == bootstrap(items, draws=99, seed=seed, alpha=alpha)
    other = bootstrap([1.0 - x for x in items], draws=99, seed=seed, alpha=alpha)
    assert other.upper == pytest.approx(1.0 - found.lower)
    assert other.lower == pytest.approx(1.0 - found.upper)


@given(UNIT, st.data())
def test_a_greater_item_never_lowers_a_bound(items: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(items) - 1))
    more = [*items[:place], data.draw(st.floats(items[place], 1.0)), *items[place + 1 :]]
    # Equal items have an exact bound, others a drawn one.
    assume(len({*items}) > 1 and len({*more}) > 1)
    low, high = (bootstrap(each, draws=59, seed=5) for each in (items, more))
    assert low.lower <= high.lower + 1e-12
    assert low.upper <= high.upper + 1e-12


@given(REAL, st.integers(-9, 9), st.sampled_from([0.5, 2.0]))
def test_without_a_range_the_bounds_move_and_stretch_with_the_items(
    items: list[float], shift: int, scale: float
) -> None:
    one = bootstrap(items, draws=59, seed=2, bounded=False)
    other = bootstrap([scale * x + shift for x in items], draws=59, seed=2, bounded=False)
    assert one.lower <= one.upper
    assert other.lower == pytest.approx(scale * one.lower + shift, abs=1e-6)
    assert other.upper == pytest.approx(scale * one.upper + shift, abs=1e-6)


# Paired differences


@pytest.mark.parametrize(
    ("df", "quantiles"),
    # Published tables at 0.95, 0.975 and 0.99.
    [
        (1, (6.3138, 12.7062, 31.8205)),
        (2, (2.9200, 4.3027, 6.9646)),
        (3, (2.3534, 3.1824, 4.5407)),
        (5, (2.0150, 2.5706, 3.3649)),
        (10, (1.8125, 2.2281, 2.7638)),
        (25, (1.7081, 2.0595, 2.4851)),
        (30, (1.6973, 2.0423, 2.4573)),
        (120, (1.6577, 1.9799, 2.3578)),
    ],
)
def test_quantiles_of_students_t_are_those_of_the_tables(
    df: int, quantiles: Sequence[float]
) -> None:
    found = [student_t(p, df) for p in (0.95, 0.975, 0.99)]
    assert found == pytest.approx(quantiles, abs=6e-5)
    assert student_t(0.5, df) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(1, 99), st.floats(0.55, 0.999))
def test_students_t_comes_down_to_the_normal(df: int, p: float) -> None:
    normal = NormalDist().inv_cdf(p)
    assert student_t(p, df) > student_t(p, df + 1) > normal
    assert student_t(p, 1000) == pytest.approx(normal, rel=4e-3)


def test_equivalence_is_shown_by_both_bounds_and_not_by_one() -> None:
    # Mean 0.1, standard error 0.1 / sqrt(4) = 0.05, t(0.95, 3) = 2.35336.
    differences = [0.1 + 0.1 * math.sqrt(0.75) * sign for sign in (1, 1, -1, -1)]
    found = equivalence(differences, margin=0.25)
    assert (found.mean, found.n, found.margin) == (pytest.approx(0.1), 4, 0.25)
    assert found.lower == pytest.approx(0.1 - 0.05 * 2.353363, abs=1e-6)
    assert found.upper == pytest.approx(0.1 + 0.05 * 2.353363, abs=1e-6)
    assert found.holds
    assert not equivalence(differences, margin=0.2).holds
    assert not equivalence([-x for x in differences], margin=0.2).holds


def test_equivalence_is_claimed_wrongly_no_oftener_than_alpha() -> None:
    source, wrong = seeded(9), 0
    for _ in range(3000):
        wrong += equivalence([source.gauss(0.25, 0.1) for _ in range(12)], margin=0.25).holds
    assert 0.035 <= wrong / 3000 <= 0.062


def test_equal_differences_say_what_their_number_says_once_their_range_is_known() -> None:
    assert equivalence([0.0] * 3, margin=0.1).holds
    few = equivalence([0.0] * 3, margin=0.1, within=(-1.0, 1.0))
    assert (few.lower, few.upper) == (
        pytest.approx(-(1 - 0.05 ** (1 / 3))),
        pytest.approx(1 - 0.05 ** (1 / 3)),
    )
    assert not few.holds
    assert equivalence([0.0] * 59, margin=0.05, within=(-1.0, 1.0)).holds
    assert not equivalence([0.0] * 58, margin=0.05, within=(-1.0, 1.0)).holds


@given(REAL, st.floats(0.1, 99.0))
def test_equivalence_does_not_ask_which_side_is_which(items: list[float], margin: float) -> None:
    one, other = (equivalence(x, margin=margin) for x in (items, [-x for x in items]))
    assert one.holds == other.holds == (max(-one.lower, one.upper) < margin)
    assert (one.lower, one.upper) == (-other.upper, -other.lower)


def test_a_sign_flip_test_counts_the_flips_that_go_as_far() -> None:
    # Of 16 signs of four equal differences one sums to as much; of (1, 2, 3, -1) four do.
    assert sign_flip_p([1.0] * 4, draws=20_000, seed=1) == pytest.approx(1 / 16, abs=0.006)
    flips = itertools.product((-1, 1), repeat=4)
    share_as_far = sum(a + 2 * b + 3 * c - d >= 5 for a, b, c, d in flips) / 16
    found = sign_flip_p([1.0, 2.0, 3.0, -1.0], draws=20_000, seed=1)
    assert found == pytest.approx(share_as_far, abs=0.01)
    assert sign_flip_p([1.0] * 40, draws=199, seed=1) == 1 / 200
    assert sign_flip_p([0.0] * 5, draws=50, seed=1) == 1.0
    assert sign_flip_p([0.1, 0.2, -0.3], draws=999, seed=1) > 0.5


def test_a_sign_flip_test_is_wrong_no_oftener_than_alpha() -> None:
    source = seeded(10)
    found = [
        sign_flip_p([source.gauss(0, 1) for _ in range(12)], draws=99, seed=i) for i in range(400)
    ]
    assert 0.025 <= fmean(p <= 0.05 for p in found) <= 0.075


# Ranks


def test_an_auc_counts_pairs_and_half_the_ties() -> None:
    found = auc([1.0, 2.0, 3.0], [0.0, 2.0, 2.0, 2.5])
    assert (found.value, found.n) == ((1 + 2 + 4) / 12, 3)


@given(REAL, REAL)
def test_an_auc_is_that_of_all_pairs_with_delongs_variance(
    positives: list[float], negatives: list[float]
) -> None:
    beats = [[(p > q) + (p == q) / 2 for q in negatives] for p in positives]
    rows, columns = [fmean(r) for r in beats], [fmean(c) for c in zip(*beats, strict=True)]
    found, n = auc(positives, negatives), min(len(positives), len(negatives))
    value = fmean(rows)
    assert found.value == pytest.approx(value)
    lower, upper = value * 0.05 ** (1 / n), 1 - (1 - value) * 0.05 ** (1 / n)
    if 0 < value < 1:
        error = math.sqrt(stdev(rows) ** 2 / len(rows) + stdev(columns) ** 2 / len(columns))
        reach = NormalDist().inv_cdf(0.95) * error / (value * (1 - value))
        odds = value / (1 - value)
        lower = min(lower, 1 - 1 / (1 + odds * math.exp(-reach)))
        upper = max(upper, 1 - 1 / (1 + odds * math.exp(reach)))
    assert (found.lower, found.upper) == (
        pytest.approx(lower, abs=1e-9),
        pytest.approx(upper, abs=1e-9),
    )


@given(REAL, REAL)
def test_an_auc_turns_round_with_its_sides_and_ignores_the_scale(
    positives: list[float], negatives: list[float]
) -> None:
    one, other = auc(positives, negatives), auc(negatives, positives)
    assert 0.0 <= one.lower <= one.value <= one.upper <= 1.0
    assert (other.lower, other.upper) == (
        pytest.approx(1 - one.upper),
        pytest.approx(1 - one.lower),
    )
    assert auc([x**3 for x in positives], [x**3 for x in negatives]) == one


def test_samples_that_do_not_overlap_do_not_make_the_bounds_of_an_auc_collapse() -> None:
    found = auc([3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 2.5])
    assert (found.value, found.lower, found.upper) == (1.0, pytest.approx(0.05 ** (1 / 3)), 1.0)
    alone = auc([3.0], [0.0, 1.0])
    assert (alone.value, alone.lower, alone.upper) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0])
def test_the_bounds_of_an_auc_cover_it(distance: float) -> None:
    source, true = seeded(11), NormalDist().cdf(distance / math.sqrt(2))
    found = [
        auc([source.gauss(distance, 1) for _ in range(20)], [source.gauss(0, 1) for _ in range(20)])
        for _ in range(1000)
    ]
    assert fmean(each.lower <= true for each in found) >= 0.935
    assert fmean(each.upper >= true for each in found) >= 0.935


def test_the_standard_error_of_an_auc_at_chance_is_that_of_the_ranks() -> None:
    # sqrt((m + n + 1) / (12 m n)) at chance: 0.0408 for 100 and 100.
    source = seeded(12)
    found = auc([source.random() for _ in range(100)], [source.random() for _ in range(100)])
    assert (found.upper - found.lower) / (2 * 1.645) == pytest.approx(0.0409, rel=0.1)


def test_the_kolmogorov_smirnov_test_is_the_published_one() -> None:
    same = [i / 40 for i in range(40)]
    assert ks(same, same) == (0.0, 1.0)
    # D = 0.5 of 40 and 40: lambda = 2.309, so p = 4.7e-5.
    gap, p = ks(same, [x + 0.5 for x in same])
    assert (gap, p) == (pytest.approx(0.5), pytest.approx(4.7e-5, rel=0.1))
    gap, p = ks(same, [x + 2.0 for x in same])
    assert (gap, p) == (1.0, pytest.approx(0.0, abs=1e-15))


@given(REAL, REAL)
def test_the_kolmogorov_smirnov_gap_is_the_greatest_anywhere(
    first: list[float], second: list[float]
) -> None:
    gap = max(
        abs(fmean(x <= at for x in first) - fmean(x <= at for x in second)) for at in range(-51, 52)
    )
    found, p = ks(first, second)
    assert (found, p) == (pytest.approx(gap), pytest.approx(ks(second, first)[1]))
    assert 0.0 <= p <= 1.0


def test_infinite_ratios_have_a_rank_too() -> None:
    assert ks([1.0, math.inf], [1.0, math.inf]) == (0.0, 1.0)
    assert ks([1.0, 2.0], [1.0, math.inf])[0] == 0.5


# Several tests


def test_adjusted_p_values_are_those_worked_by_hand() -> None:
    p = {"c": 0.03, "a": 0.01, "d": 0.005, "b": 0.04}
    assert holm(p) == pytest.approx({"c": 0.06, "a": 0.03, "d": 0.02, "b": 0.06})
    assert list(holm(p)) == list(p)


def test_of_the_first_example_of_benjamini_and_hochberg_holm_rejects_three() -> None:
    listed = (0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344)
    listed += (0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000)
    p = {str(i): each for i, each in enumerate(listed)}
    assert sum(each <= 0.05 for each in holm(p).values()) == 3


@given(P_VALUES)
def test_adjusting_only_raises_and_keeps_the_order(
    listed: list[float],
) -> None:
    p = {f"probe {i}": each for i, each in enumerate(listed)}
    adjusted = holm(p)
    for name, each in p.items():
        assert each <= adjusted[name] + 1e-12
        assert adjusted[name] <= min(1.0, len(p) * each) + 1e-12 or each > min(p.values())
    assert sorted(p, key=lambda name: (p[name], name)) == sorted(
        p, key=lambda name: (adjusted[name], p[name], name)
    )


# Sample sizes


def test_the_sizes_are_those_of_the_plan() -> None:
    assert needed(margin=0.10, sd=0.29) == 52
    assert statistics.power(n=20, margin=0.10, sd=0.29) == pytest.approx(0.459, abs=1e-3)
    assert achieved_margin(n=20, sd=0.29) == pytest.approx(0.161, abs=1e-3)
    assert statistics.power(n=9, margin=0.0, sd=0.3) == pytest.approx(0.05)


@given(st.floats(0.01, 1.0), st.floats(0.05, 1.0), st.floats(0.3, 0.99))
def test_sizes_powers_and_margins_undo_each_other(margin: float, sd: float, power: float) -> None:
    n = needed(margin=margin, sd=sd, power=power)
    assert statistics.power(n=n, margin=margin, sd=sd) >= power - 1e-9
    if n > 1:
        assert statistics.power(n=n - 1, margin=margin, sd=sd) < power + 1e-9
    reached = achieved_margin(n=n, sd=sd, power=power)
    assert reached <= margin + 1e-9
    assert statistics.power(n=n, margin=reached, sd=sd) == pytest.approx(power)


# What cannot be measured


@pytest.mark.parametrize(
    "measure",
    [
        lambda: share(0, 0),
        lambda: upper_bound(0, 0),
        lambda: bootstrap([], draws=99, seed=1),
        lambda: bootstrap([], draws=99, seed=1, bounded=False),
        lambda: equivalence([], margin=0.1),
        lambda: auc([], [1.0]),
        lambda: auc([1.0], []),
        lambda: holm({}),
        lambda: sign_flip_p([], draws=99, seed=1),
        lambda: ks([], [1.0]),
        lambda: ks([1.0], []),
    ],
)
def test_nothing_measured_is_an_error_and_no_default(measure: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "measure",
    [
        lambda bad: bootstrap([0.1, bad], draws=99, seed=1),
        lambda bad: bootstrap([0.1, bad], draws=99, seed=1, bounded=False),
        lambda bad: equivalence([0.1, bad], margin=0.1),
        lambda bad: equivalence([0.1, 0.2], margin=bad),
        lambda bad: auc([0.1, bad], [0.1]),
        lambda bad: auc([0.1], [0.1, bad]),
        lambda bad: holm({"a": 0.1, "b": bad}),
        lambda bad: sign_flip_p([0.1, bad], draws=99, seed=1),
        lambda bad: needed(margin=bad, sd=0.3),
        lambda bad: needed(margin=0.1, sd=bad),
        lambda bad: statistics.power(n=9, margin=bad, sd=0.3),
        lambda bad: achieved_margin(n=9, sd=bad),
        lambda bad: share(1, 2, alpha=bad),
    ],
)
def test_what_is_no_number_is_an_error(measure: Callable[[float], object], bad: float) -> None:
    with pytest.raises(ValueError, match=r"number|\[0, 1\]|probability"):
        measure(bad)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: share(3, 2), "3 hits of 2"),
        (lambda: share(-1, 2), "-1 hits of 2"),
        (lambda: share(1, 2, alpha=0.0), "probability"),
        (lambda: bootstrap([0.5, 1.5], draws=99, seed=1), r"outside \[0.0, 1.0\]"),
        (lambda: bootstrap([0.5], draws=99, seed=1, within=(1.0, 0.0)), "outside"),
        (lambda: bootstrap([0.5, 0.6], draws=18, seed=1), "18 draws are too few"),
        (lambda: sign_flip_p([0.5], draws=0, seed=1), "draws"),
        (lambda: equivalence([0.1], margin=0.1), "at least two"),
        (lambda: equivalence([0.1, 0.2], margin=0.0), "margin"),
        (lambda: equivalence([0.1, 2.0], margin=0.1, within=(-1.0, 1.0)), "outside"),
        (lambda: student_t(0.4, 3), "quantile"),
        (lambda: student_t(0.95, 0), "quantile"),
        (lambda: ks([math.nan], [1.0]), "not a number"),
        (lambda: holm({"a": 1.1}), "outside"),
        (lambda: needed(margin=0.0, sd=0.3), "margin"),
        (lambda: needed(margin=-0.1, sd=0.3), "margin"),
        (lambda: needed(margin=0.1, sd=0.0), "sd"),
        (lambda: needed(margin=0.1, sd=0.3, power=1.0), "probability"),
        (lambda: needed(margin=0.1, sd=0.3, power=0.04), "power"),
        (lambda: achieved_margin(n=0, sd=0.3), "n must be"),
        (lambda: statistics.power(n=0, margin=0.1, sd=0.3), "n must be"),
    ],
)
def test_what_has_no_answer_is_refused(measure: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure()
