"""The paired statistics of the demos, against closed forms, hand-computed numbers and SciPy's own tests."""

import math
import warnings

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats", reason="pip install -e '.[demos]'")
from demos.statistics import holm, interval, mean_ci, paired, spearman_over_seeds, tost  # noqa: E402


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_paired_by_hand():
    # differences -1 -2 -3: mean -2, sd 1, standard error 1/sqrt(3), t(0.975, 2) = 4.302653
    result = paired([1, 1, 1], [2, 3, 4])
    half = 4.3026527297 / math.sqrt(3)
    assert (result.n, result.mean, result.d_z, result.win_rate) == (3, -2, -2, 1)
    assert result.ci == pytest.approx((-2 - half, -2 + half), rel=1e-9)
    # two degrees of freedom have a closed form: p = 1 - t / sqrt(2 + t^2), here with t = 2 sqrt(3)
    t = 2 * math.sqrt(3)
    assert result.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_paired_is_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(0.3, 2, size=n)
    result, reference = paired(a, b), stats.ttest_rel(a, b)
    assert result.p == pytest.approx(reference.pvalue, rel=1e-10)
    assert result.ci == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-10)
    assert result.d_z == pytest.approx(reference.statistic / math.sqrt(n), rel=1e-10)
    for first, second in ((a, b), (b, a)):
        one_sided = paired(first, second, alternative="greater")
        assert one_sided.p == pytest.approx(stats.ttest_rel(first, second, alternative="greater").pvalue, rel=1e-10)
        assert one_sided.ci == paired(first, second).ci


def test_pairing_removes_what_the_seeds_share():
    rng = np.random.default_rng(3)
    seed_effect = rng.normal(0, 10, size=20)
    result = paired(seed_effect - 0.5 + rng.normal(0, 0.1, 20), seed_effect)
    assert result.ci[1] < 0 and result.ci[1] - result.ci[0] < 0.2


def test_intervals_in_words():
    assert interval(3.0, (2.951, 3.049)) == "3.00 [2.95, 3.05]"
    assert interval(1234.5, (0.0012, 2e9), ".3g") == "1.23e+03 [0.0012, 2e+09]"
    d = paired([1, 2, 3, 4, 5], [0] * 5)  # the interval by hand: see below
    assert (
        d.interval() == "+3.00 [1.04, 4.96]" and paired([0] * 5, [1, 2, 3, 4, 5]).interval(".1f") == "-3.0 [-5.0, -1.0]"
    )


def test_signs_turn_with_the_arms():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=9), rng.normal(1, 1, size=9)
    forth, back = paired(a, b), paired(b, a)
    assert back.mean == -forth.mean and back.d_z == pytest.approx(-forth.d_z)
    assert back.ci == pytest.approx((-forth.ci[1], -forth.ci[0]))
    assert back.win_rate == pytest.approx(1 - forth.win_rate) and back.p == pytest.approx(forth.p)


def test_ties_count_half():
    assert paired([1, 2, 3, 4], [2, 2, 2, 5]).win_rate == (2 + 0.5) / 4


def test_bootstrap_is_repeatable_and_leans_with_the_data():
    skewed = np.random.default_rng(5).exponential(size=40)
    first, second = paired(skewed, np.zeros(40)), paired(skewed, np.zeros(40))
    assert first.bootstrap_ci == second.bootstrap_ci
    low, high = first.bootstrap_ci
    assert low < first.mean < high
    assert high - first.mean > first.mean - low  # the t-interval is symmetric, the truth is not
    assert high - low == pytest.approx(first.ci[1] - first.ci[0], rel=0.25)


def test_one_seed_has_no_interval_and_passes_nothing():
    result = paired([1.0], [3.0])
    assert result.mean == -2 and result.win_rate == 1
    for value in (*result.ci, *result.bootstrap_ci, result.d_z, result.p):
        assert math.isnan(value)
    assert not result.ci[1] < 0 and not result.p < 0.05
    assert not tost([1.0], [1.0], margin=1)["equivalent"]


@pytest.mark.parametrize("shift, p", [(0.0, 1.0), (-0.1, 2 / 2**7), (0.1, 2 / 2**7)])
def test_equal_differences_are_no_certainty(shift, p):
    """What is left is the sign test: seven heads in a row have the probability 2 / 2^7 on either side."""
    b = np.arange(7) / 10  # b + shift - b is not the same float everywhere
    result = paired(b + shift, b)
    assert result.ci == result.bootstrap_ci == (result.mean, result.mean)
    assert result.mean == pytest.approx(shift, abs=1e-15)
    assert math.isnan(result.d_z) and result.p == p == stats.binomtest(7 if shift else 3, 7).pvalue
    heads = 7 if shift > 0 else 0
    assert paired(b + shift, b, alternative="greater").p == stats.binomtest(heads, 7, alternative="greater").pvalue


def test_mean_ci_by_hand():
    mean, ci = mean_ci([1, 2, 3, 4, 5])  # sd sqrt(2.5), standard error sqrt(0.5), t(0.975, 4) = 2.776445
    assert mean == 3
    half = 2.7764451052 * math.sqrt(0.5)
    assert ci == pytest.approx((3 - half, 3 + half), rel=1e-9)
    assert mean_ci([0.1, 0.1, 0.1]) == (0.1, (0.1, 0.1))


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(6)
    draws = 2000
    hits95 = hits90 = 0
    for sample in rng.normal(1.5, 2, size=(draws, 5)):
        low, high = mean_ci(sample)[1]
        hits95 += low < 1.5 < high
        low, high = mean_ci(sample, level=0.90)[1]
        hits90 += low < 1.5 < high
    # four standard errors of a proportion; a normal interval in place of the t-interval covers 88 %
    assert hits95 / draws == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / draws))
    assert hits90 / draws == pytest.approx(0.90, abs=4 * math.sqrt(0.90 * 0.10 / draws))


def test_bootstrap_covers_nearly_as_often():
    rng = np.random.default_rng(7)
    hits = 0
    for sample in rng.normal(1, 1, size=(60, 20)):
        low, high = paired(sample, np.zeros(20)).bootstrap_ci
        hits += low < 1 < high
    assert 0.85 < hits / 60 < 1


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04; never below the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_counts_a_test_without_a_p_value():
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0]) and adjusted[1] == pytest.approx(0.04)


def test_holm_keeps_the_family_wise_error():
    rng = np.random.default_rng(8)
    false_alarms = sum(min(holm(rng.uniform(size=5))) < 0.05 for _ in range(4000)) / 4000
    assert false_alarms == pytest.approx(1 - (1 - 0.05 / 5) ** 5, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


def test_tost_by_hand():
    # differences -0.1 0 0.1: mean 0, standard error 0.1/sqrt(3), t(0.95, 2) = 2.919986, half width 0.168585
    a, b = [1.9, 3.0, 4.1], [2.0, 3.0, 4.0]
    assert tost(a, b, margin=1)["ci90"] == pytest.approx((-0.1685854, 0.1685854), rel=1e-6)
    assert tost(a, b, margin=0.17)["equivalent"] and not tost(a, b, margin=0.168)["equivalent"]


def test_tost_p_and_interval_tell_the_same():
    rng = np.random.default_rng(9)
    seen = set()
    for _ in range(200):
        d = rng.normal(rng.uniform(-1, 1), 1, size=12)
        result = tost(d, np.zeros(12), margin=0.8)
        assert result["equivalent"] == (result["p"] < 0.05)
        seen.add(result["equivalent"])
    assert seen == {True, False}


def test_tost_without_variance():
    five = [1, 2, 3, 4, 5]
    assert tost(five, five, margin=0.1)["equivalent"] and tost(five, five, margin=0.1)["p"] == 1 / 32
    assert not tost([1, 2], [1, 2], margin=0.1)["equivalent"]  # two seeds prove nothing
    outside = tost([2, 3, 4], [1, 2, 3], margin=0.5)
    assert outside["p"] == 1 and not outside["equivalent"] and outside["ci90"] == (1, 1)


def test_spearman_by_hand():
    # ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8; a flat curve counts 0
    trend = spearman_over_seeds([8, 32, 128, 500], [[1, 2, 9, 4], [1, 2, 3, 4], [4, 3, 2, 1], [5, 5, 5, 5]])
    assert trend.rhos == pytest.approx([0.8, 1, -1, 0]) and trend.mean == pytest.approx(0.2)
    rising = spearman_over_seeds([1, 2, 3, 4], [[1, 2, 4, 3]] * 9 + [[1, 2, 3, 4]])
    assert rising.ci == pytest.approx(mean_ci([0.8] * 9 + [1])[1])
    same = spearman_over_seeds([1, 2, 3], [[1, 2, 3], [3, 4, 9]])
    assert same.mean == pytest.approx(1) and same.ci == pytest.approx((1, 1)) and same.p == 0.5
    assert rising.p == pytest.approx(stats.ttest_1samp([0.8] * 9 + [1], 0).pvalue, rel=1e-6)


def test_a_correlation_stays_within_one():
    trend = spearman_over_seeds([1, 2, 3], [[1, 2, 3], [1, 3, 2]])  # rho 1 and 0.5: unclipped it reaches 3.9
    assert trend.ci == (-1, 1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: paired([1, 2], [1, 2, 3]), "a and b .* got 2 and 3"),
        (lambda: paired([], []), r"a must hold one value per seed, got .*\(0,\)"),
        (lambda: paired([[1, 2]], [[1, 2]]), r"a must hold one value per seed, got .*\(1, 2\)"),
        (lambda: paired([1, 2], [1, math.inf]), "b must be finite .* got inf at index 1"),
        (lambda: paired([1, 2], [1, 2], alternative="less"), "alternative must be one of .*'greater'.*, got 'less'"),
        (lambda: mean_ci([1, math.nan]), "values must be finite .* got nan at index 1"),
        (lambda: holm([0.5, 1.5]), "pvalues"),
        (lambda: tost([1, 2], [1, 2], margin=0), "margin .* got 0"),
        (lambda: tost([1, 2], [1, 2], margin=math.nan), "margin .* got nan"),
        (lambda: spearman_over_seeds([1, 2, 3], [1, 2, 3]), r"the shape \(seeds, 3\), got \(3,\)"),
        (lambda: spearman_over_seeds([1, 1], [[1, 2]]), "x must hold at least two different numbers"),
        (lambda: spearman_over_seeds([1, 2], [[1, math.nan]]), "finite"),
    ],
)
def test_bad_input_says_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
