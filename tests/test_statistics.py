"""Statistics of a few seeds: against formulas, by simulation, and at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from mtlbench.boards.metrics import delta_m
from mtlbench.boards.statistics import (
    Estimate,
    against_reference,
    bootstrap,
    holm,
    near_best,
    p_improvement,
    rank_intervals,
    resolution,
    seeds_to_resolve,
    verdicts,
    worst_objective,
)

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


# ------------------------------------------------------------------------------------ intervals
def test_an_interval_is_scipys() -> None:
    values = np.array([0.3, -1.2, 0.9, 2.0, 0.1])
    found = Estimate.of(values)
    test = stats.ttest_1samp(values, 0)
    assert found.interval() == pytest.approx(tuple(test.confidence_interval()))
    assert found.p == pytest.approx(test.pvalue)
    assert found.interval(0.9) == pytest.approx(tuple(test.confidence_interval(0.9)))


@pytest.mark.parametrize("values", [[], [2.0], [2.0, math.nan]])
def test_no_interval_is_made_up_from_one_seed(values: list[float]) -> None:
    found = Estimate.of(values)
    assert found.n == sum(not math.isnan(value) for value in values)
    assert all(map(math.isnan, [*found.interval(), found.p, found.resolution, found.sd]))
    assert not found.is_small()
    assert verdicts([found]) == ["open"]
    assert seeds_to_resolve(found.sd) is None


def test_seeds_that_all_say_the_same() -> None:
    assert verdicts([Estimate.of([0.0, 0.0]), Estimate.of([2.0, 2.0])]) == ["equal", "worse"]


def pair(
    generator: np.random.Generator, shape: tuple[int, int], spread: float
) -> NDArray[np.float64]:
    """Difference of two rows whose values are lognormal, of mean zero."""
    first, second = (generator.lognormal(0, s, size=shape) for s in (0.5, spread))
    return np.asarray(first - second - math.exp(0.125) + math.exp(spread**2 / 2))


SHAPES: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "two skewed rows": lambda generator, shape: pair(generator, shape, 0.5),
    "two rows, one more skewed": lambda generator, shape: pair(generator, shape, 0.25),
    "a skewed difference": lambda generator, shape: generator.gamma(4, size=shape) - 4,
}


def coverage(shape: str, n: int, draws: int) -> float:
    """How often the interval of n seeds has the true mean, zero, in it."""
    drawn = SHAPES[shape](np.random.default_rng(n), (draws, n))
    ends = np.array([Estimate.of(values).interval() for values in drawn])
    return float(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean())


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shape", ["normal", "two skewed rows"])
def test_intervals_cover_what_they_say(shape: str, n: int) -> None:
    assert 0.93 <= coverage(shape, n, draws=4000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_coverage_at_length(shape: str, n: int) -> None:
    assert 0.93 <= coverage(shape, n, draws=60_000) <= 0.97


def rows_and_reference(
    generator: np.random.Generator, n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A row and a reference with three metrics that vary by a few percent; delta-m is 10/3."""
    noise = [generator.normal(1, 0.03, size=(n, 3)) for _ in range(2)]
    return noise[0] * [70, 0.22, 33], noise[1] * [70, 0.2, 33]


def test_the_references_own_noise_is_in_the_interval() -> None:
    generator, signs, n = np.random.default_rng(0), [-1, 1, 1], 5
    with_noise, without = [], []
    for _ in range(2000):
        v, b = rows_and_reference(generator, n)
        low, high = against_reference(v, b, signs).interval()
        with_noise.append(low <= 10 / 3 <= high)
        only_v = Estimate.of((100 * (v / b.mean(axis=0) - 1) * signs).mean(axis=1))
        low, high = only_v.interval()
        without.append(low <= 10 / 3 <= high)
    assert 0.93 <= np.mean(with_noise) <= 0.97
    assert np.mean(without) < 0.9


def test_against_reference_by_hand() -> None:
    v, b = np.array([[90.0, 2.0], [94.0, 2.4]]), np.array([[100.0, 2.0], [98.0, 2.2]])
    found = against_reference(v, b, [-1, 1])
    directions = {"up": True, "down": False}
    expected = delta_m({"up": 92, "down": 2.2}, {"up": 99, "down": 2.1}, directions)
    assert found.mean == pytest.approx(expected)
    d = [
        50 * (-(v[s, 0] - 92 / 99 * b[s, 0]) / 99 + (v[s, 1] - 2.2 / 2.1 * b[s, 1]) / 2.1)
        for s in range(2)
    ]
    assert found.sd == pytest.approx(np.std(d, ddof=1))
    assert found.n == 2


def test_a_reference_against_itself_is_certain() -> None:
    b = np.array([[100.0, 2.0], [98.0, 2.2], [97.0, 2.1]])
    assert against_reference(b, b, [-1, 1]) == Estimate(3, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, 0.0, -1.0])
def test_a_reference_that_is_not_positive_gives_nothing(bad: float) -> None:
    found = against_reference([[1.0], [1.0]], [[bad], [bad]], [1])
    assert math.isnan(found.mean)
    assert math.isnan(found.sd)


# ------------------------------------------------------------------------------------ verdicts
def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03, math.nan]) == pytest.approx(
        [0.06, 0.03, 0.06, math.nan], nan_ok=True
    )
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_four_verdicts() -> None:
    shown = Estimate(5, -3.0, 0.5), Estimate(5, 3.0, 0.5)
    small, wide = Estimate(5, 0.2, 0.3), Estimate(5, 0.2, 3.0)
    assert verdicts([*shown, small, wide]) == ["better", "worse", "equal", "open"]
    assert verdicts([small], margin=0.1) == ["open"]


def test_a_difference_that_is_shown_and_small_is_a_difference() -> None:
    assert verdicts([Estimate(10, -0.5, 0.1)]) == ["better"]


def test_a_larger_family_asks_for_more() -> None:
    found = Estimate(5, -3.0, 2.0)
    assert found.p < 0.05
    assert verdicts([found]) == ["better"]
    assert verdicts([found] + [Estimate(5, 0.0, 5.0)] * 9)[0] == "open"


def test_the_family_is_wrong_no_more_often_than_it_says() -> None:
    """Ten null differences, 600 times: a wrong one in 5 % of the families, not of the pairs."""
    generator = np.random.default_rng(1)
    wrong = sum(
        any(v in ("better", "worse") for v in verdicts([Estimate.of(d) for d in family]))
        for family in generator.normal(0, 3, size=(600, 10, 4))
    )
    assert wrong / 600 < 0.08


# ------------------------------------------------------------------------------------ resolution
def test_resolution_is_what_the_t_test_can_see() -> None:
    """At a true difference of the resolution, four tests in five show it."""
    generator, n, sd = np.random.default_rng(2), 8, 1.5
    drawn = generator.normal(resolution(sd, n), sd, size=(3000, n))
    power = np.mean([Estimate.of(values).p < 0.05 for values in drawn])
    assert 0.77 <= power <= 0.84


@pytest.mark.parametrize(
    ("sd", "seeds"), [(1.1, 12), (1.9, 31), (2.6, 56), (3.3, 88), (0.0, 2), (0.01, 2)]
)
def test_seeds_that_one_point_takes(sd: float, seeds: int) -> None:
    assert seeds_to_resolve(sd) == seeds
    assert resolution(sd, seeds) <= 1
    assert seeds == 2 or resolution(sd, seeds - 1) > 1


# ------------------------------------------------------------------------------------ the rest
def test_rank_intervals() -> None:
    assert rank_intervals("abcd", []) == dict.fromkeys("abcd", (1, 4))
    found = rank_intervals("abcd", [("a", "d"), ("b", "d"), ("c", "d"), ("a", "c")])
    assert found == {"a": (1, 2), "b": (1, 3), "c": (2, 3), "d": (4, 4)}


def test_worst_objective() -> None:
    assert worst_objective({"left": 2.0, "right": -30.0, "mid": 5.0}) == ("mid", 5.0)
    name, change = worst_objective({"left": 2.0, "right": math.nan})
    assert (name, math.isnan(change)) == ("", True)


def test_p_improvement_takes_half_of_the_ties() -> None:
    assert p_improvement([-1.0, 0.0, 2.0, -3.0, math.nan]) == 2.5 / 4
    assert math.isnan(p_improvement([]))


def test_near_best_weights_benchmarks_equally() -> None:
    runs = pd.DataFrame(
        [
            *(("one", s, row, delta) for s in range(4) for row, delta in (("a", 0), ("b", 0.9))),
            *(("two", 0, row, delta) for row, delta in (("a", 50), ("b", 20))),
            ("two", 0, "only here", 1.0),
        ],
        columns=["benchmark", "seed", "row", "delta_m"],
    )
    assert near_best(runs).to_dict() == {"b": 1.0, "a": 0.5}
    assert near_best(runs, tau=0.5).to_dict() == {"a": 0.5, "b": 0.5}


def test_bootstrap_agrees_with_t_on_normal_seeds() -> None:
    v, b = rows_and_reference(np.random.default_rng(3), 40)

    def again(seeds: NDArray[np.int64]) -> float:
        return against_reference(v[seeds], b[seeds], [-1, 1, 1]).mean

    found = bootstrap(again, 40, np.random.default_rng(0))
    assert found == pytest.approx(against_reference(v, b, [-1, 1, 1]).interval(), rel=0.15)
    assert found == bootstrap(again, 40, np.random.default_rng(0))


def test_few_seeds_are_not_resampled() -> None:
    with pytest.raises(ValueError, match="9 seeds are too few to resample; it takes 10"):
        bootstrap(lambda seeds: 0.0, 9, np.random.default_rng(0))
