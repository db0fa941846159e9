"""The paired statistics of the demos, against closed forms, hand-computed numbers and SciPy's own tests."""

import math
import warnings

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats", reason="pip install -e '.[demos]'")
from demos.statistics import holm, interval, mean_ci, paired, share, sign_flip, spearman_over_seeds, tost  # noqa: E402


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
    assert result.p == 2 / 2**3  # of the eight sign patterns, +++ and --- are as far from 0


@pytest.mark.parametrize("n", [2, 5, 12])
def test_paired_has_students_interval_and_the_exact_test_of_signs(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(0.3, 2, size=n)
    result, reference = paired(a, b), stats.ttest_rel(a, b)
    assert result.ci == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-10)
    assert result.d_z == pytest.approx(reference.statistic / math.sqrt(n), rel=1e-10)
    flips = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=math.inf)
    assert result.p == pytest.approx(flips.pvalue, rel=1e-12)
    for first, second in ((a, b), (b, a)):
        one_sided = paired(first, second, alternative="greater")
        flips = stats.permutation_test(
            (first - second,), np.mean, permutation_type="samples", n_resamples=math.inf, alternative="greater"
        )
        assert one_sided.p == pytest.approx(flips.pvalue, rel=1e-12) and one_sided.ci == paired(first, second).ci


def test_signs_of_many_differences_are_drawn():
    d = np.random.default_rng(11).normal(0.4, 1, 40)
    assert sign_flip(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=0.2)
    assert sign_flip(np.ones(40)) == 1 / 100_001 and sign_flip(-np.ones(40), "greater") == 1


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


def test_one_seed_has_no_interval_and_passes_nothing():
    result = paired([1.0], [3.0])
    assert result.mean == -2 and result.win_rate == 1
    for value in (*result.ci, result.d_z, result.p):
        assert math.isnan(value)
    assert not result.ci[1] < 0 and not result.p < 0.05
    assert not tost([1.0], [1.0], margin=1)["equivalent"]


@pytest.mark.parametrize("shift, p", [(0.0, 1.0), (-0.1, 2 / 2**7), (0.1, 2 / 2**7)])
def test_equal_differences_are_no_certainty(shift, p):
    """What is left is the sign test: seven heads in a row have the probability 2 / 2^7 on either side."""
    b = np.arange(7) / 10  # b + shift - b is not the same float everywhere
    result = paired(b + shift, b)
    assert result.ci == (result.mean, result.mean)
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
    wide, narrow = tost(a, b, margin=0.17), tost(a, b, margin=0.05)
    assert wide["p"] == 1 / 8 and not wide["equivalent"]  # three seeds are too few for any margin
    assert narrow["p"] == 3 / 8  # d + margin is -0.05 0.05 0.15: three sign patterns have a sum of 0.15 or more


def test_tost_needs_the_interval_and_the_test():
    rng = np.random.default_rng(9)
    seen = set()
    for _ in range(200):
        d = rng.normal(rng.uniform(-1, 1), 1, size=12)
        result = tost(d, np.zeros(12), margin=0.8)
        low, high = result["ci90"]
        inside = low > -0.8 and high < 0.8
        p = max(sign_flip(d + 0.8, "greater"), sign_flip(0.8 - d, "greater"))
        assert result["p"] == p and result["equivalent"] == (inside and p < 0.05)
        sides = ((-0.8, "greater"), (0.8, "less"))
        assert inside == all(stats.ttest_1samp(d, bound, alternative=side).pvalue < 0.05 for bound, side in sides)
        seen.add(result["equivalent"])
    assert seen == {True, False}


def test_tost_without_variance():
    five = [1, 2, 3, 4, 5]
    assert tost(five, five, margin=0.1)["equivalent"] and tost(five, five, margin=0.1)["p"] == 1 / 32
    assert not tost([1, 2], [1, 2], margin=0.1)["equivalent"]  # two seeds prove nothing
    far = tost(np.arange(8) + 1, np.arange(8), margin=0.5)
    assert far["beyond"] and not far["equivalent"] and not tost(np.arange(8) + 1, np.arange(8), margin=1.5)["beyond"]
    assert far["p_beyond"] == 2 / 2**8 and tost([2, 3, 4], [1, 2, 3], margin=0.5)["p_beyond"] == 2 / 2**3
    assert tost(np.arange(8), np.arange(8) + 1, margin=0.5)["beyond"]
    outside = tost([2, 3, 4], [1, 2, 3], margin=0.5)
    assert outside["p"] == 1 and not outside["equivalent"] and outside["ci90"] == (1, 1)


def test_spearman_by_hand():
    # ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8; a flat curve counts 0
    trend = spearman_over_seeds([8, 32, 128, 500], [[1, 2, 9, 4], [1, 2, 3, 4], [4, 3, 2, 1], [5, 5, 5, 5]])
    assert trend.rhos == pytest.approx([0.8, 1, -1, 0]) and trend.mean == pytest.approx(0.2)
    rising = spearman_over_seeds([1, 2, 3, 4], [[1, 2, 4, 3]] * 9 + [[1, 2, 3, 4]])
    assert rising.ci == pytest.approx(mean_ci([0.8] * 9 + [1])[1])
    same = spearman_over_seeds([1, 2, 3], [[1, 2, 3], [3, 4, 9]])
    assert same.mean == pytest.approx(1) and same.ci == pytest.approx((1, 1))
    assert same.p == pytest.approx(2 / 6**2, rel=0.05)  # both seeds up, or both down, of 36 pairs of orders


def test_the_trend_is_pages_test():
    rng = np.random.default_rng(10)
    for rise in (0.0, 0.5, 1.5):
        curves = rise * np.arange(4) + rng.normal(size=(6, 4))
        page = stats.page_trend_test(curves, method="exact").pvalue
        assert spearman_over_seeds([1, 2, 3, 4], curves).p == pytest.approx(2 * min(page, 1 - page), abs=0.01)


def test_a_worse_seed_makes_a_trend_less_certain():
    five = [[1, 2, 3, 4]] * 5
    worse = spearman_over_seeds([1, 2, 3, 4], [*five[:4], [1, 2, 4, 3]])
    assert spearman_over_seeds([1, 2, 3, 4], five).p <= worse.p < 1e-4  # a t-test: nan or 0.06, and 2e-5


def test_a_trend_along_numbers_of_each_seed_and_with_ties():
    x = [[3, 1, 2, 2], [1, 2, 3, 4]]
    found = spearman_over_seeds(x, [[30, 10, 20, 21], [1, 2, 3, 3]])
    expected = [stats.spearmanr(*pair).statistic for pair in zip(x, [[30, 10, 20, 21], [1, 2, 3, 3]], strict=True)]
    assert found.rhos == pytest.approx(expected)


def test_a_share_has_fiellers_interval():
    """r belongs to it where part - r whole may have the mean 0: by Student's test, at its ends p is 0.05."""
    rng = np.random.default_rng(12)
    whole = rng.normal(1.3, 0.5, 20)
    part = 0.25 * whole + rng.normal(0, 0.2, 20)
    ratio, (low, high) = share(part, whole)
    assert ratio == pytest.approx(part.mean() / whole.mean()) and low < ratio < high
    for end in (low, high):
        assert stats.ttest_1samp(part - end * whole, 0).pvalue == pytest.approx(0.05, rel=1e-6)
    assert share(part, rng.normal(0, 1, 20))[1] == (-math.inf, math.inf)  # of what may be nothing, any share
    assert share([1.0], [2.0])[0] == 0.5 and math.isnan(share([1.0], [2.0])[1][0])


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
