"""Intervals and paired comparisons, against scipy and by their coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from shared import stats


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30).filter(lambda v: np.ptp(v) > 1e-3))
def test_mean_interval_is_scipys(values):
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.mean_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_interval_is_scipys(n, share):
    successes = round(n * share)
    expected = scipy_stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert stats.wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_interval_of_twenty_out_of_twenty():
    assert stats.wilson_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


@pytest.mark.parametrize("n", [6, 9, 20, 101])
def test_median_interval_covers(n):
    """At least 95 % of samples have the true median between the order statistics (coverage of a skewed distribution)."""
    samples = np.random.default_rng(n).exponential(size=(4000, n))
    inside = [low <= np.log(2) <= high for low, high in map(stats.median_interval, samples)]
    assert np.mean(inside) >= 0.94


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3, max_size=20))
def test_paired_is_scipys_and_antisymmetric(pairs):
    a, b = np.transpose(pairs)
    there, back = stats.paired(a, b), stats.paired(b, a)
    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["p"] == pytest.approx(back["p"])
    if np.ptp(a - b) > 1e-6:
        assert there["p"] == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)


def test_overlapping_folds_widen_the_interval():
    """The corrected resampled t-test (Nadeau & Bengio 2003): variance factor 1/n + test/train in place of 1/n."""
    a, b = np.random.default_rng(0).standard_normal((2, 25)) + np.array([[0.5], [0]])
    plain, corrected = stats.paired(a, b), stats.paired(a, b, test_over_train=1 / 4)
    ratio = np.diff(corrected["ci95"]) / np.diff(plain["ci95"])
    assert ratio == pytest.approx(np.sqrt((1 / 25 + 1 / 4) * 25))
    assert corrected["p"] > plain["p"]


def test_the_bootstrap_is_scipys_and_keeps_units_together():
    values = np.random.default_rng(0).gamma(0.3, size=40)
    twin = scipy_stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    low, high = stats.bootstrap_interval(values)
    assert (low, high) == pytest.approx(tuple(twin.confidence_interval), rel=0.1) and values.min() <= low < high <= values.max()
    assert stats.bootstrap_interval(np.stack([values] * 5, axis=1)) == pytest.approx((low, high)), "copies are no news"


def test_booleans_are_proportions():
    summary = stats.summary(np.array([True, True, False, True]))
    assert summary["mean"] == 0.75 and summary["n"] == 4
    assert summary["ci95"] == stats.wilson_interval(3, 4)


@pytest.mark.parametrize("wrong", [[], [np.inf], [[1.0, 2.0]]])
def test_summary_refuses(wrong):
    with pytest.raises(ValueError, match="finite numbers"):
        stats.summary(wrong)
