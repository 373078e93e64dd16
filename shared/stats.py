"""Means, medians and proportions with 95 % intervals, and paired comparisons: one place, so that every README means the same."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

Z95 = 1.959963984540054


def summary(values, interval: tuple[float, float] | None = None) -> dict:
    """mean, ci95 (None for a single value), values, n; from six values on also median and median_ci95.

    Booleans are successes and failures: their mean is a proportion, with Wilson's interval.
    """
    if np.asarray(values).dtype == bool:
        successes, n = int(np.sum(values)), int(np.size(values))
        return {
            "mean": successes / n,
            "ci95": wilson_interval(successes, n),
            "values": np.asarray(values, dtype=int).ravel().tolist(),
            "n": n,
        }
    numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("a metric needs one or more finite numbers")
    result = {
        "mean": numbers.mean(),
        "ci95": interval or mean_interval(numbers),
        "values": numbers.tolist(),
        "n": len(numbers),
    }
    if len(numbers) >= 6:  # below, no pair of order statistics covers the median with 95 %
        result |= {"median": np.median(numbers), "median_ci95": median_interval(numbers)}
    return result


def mean_interval(values: ArrayLike) -> tuple[float, float] | None:
    """Student's t interval of the mean; None for fewer than two values."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        return None
    half = scipy_stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers))
    return float(numbers.mean() - half), float(numbers.mean() + half)


def median_interval(values: ArrayLike) -> tuple[float, float]:
    """Distribution-free interval of the median: the order statistics that cover it with at least 95 % (needs six values)."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n < 6:
        raise ValueError("the median's 95 % interval needs at least six values")
    low = int(scipy_stats.binom.ppf(0.025, n, 0.5))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(n - low, n - 1)])


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): sensible also at 0 % and 100 %, where the normal one has no width."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError("need 0 <= successes <= n and n >= 1")
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = float(centre - half), float(centre + half)
    return 0.0 if successes == 0 else low, 1.0 if successes == n else high


def bootstrap_interval(values: ArrayLike, draws: int = 4000) -> tuple[float, float]:
    """Percentile bootstrap of the mean of (units, ...): units are drawn, what stands behind the first axis stays together.

    For values that depend on each other (one prompt, several seeds), and for bounded ones: it never leaves their range.
    """
    units = np.asarray(values, dtype=np.float64)
    means = units.reshape(len(units), -1).mean(1)
    drawn = means[np.random.default_rng(0).integers(len(means), size=(draws, len(means)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def paired(a: ArrayLike, b: ArrayLike, test_over_train: float = 0.0) -> dict:
    """difference (mean of a - b), its ci95, two-sided p of the paired t-test, n; raises ValueError for unequal lengths.

    Values from overlapping folds are not independent: give the ratio of test to training rows, and the variance is that of the
    corrected resampled t-test, (1 / n + test_over_train) times the sample variance (Nadeau & Bengio 2003).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError("a paired comparison needs two equally long lists of at least two numbers")
    difference, n = first - second, len(first)
    mean, spread = difference.mean(), difference.std(ddof=1) * np.sqrt(1 / n + test_over_train)
    half = scipy_stats.t.ppf(0.975, n - 1) * spread
    p = 2 * scipy_stats.t.sf(abs(mean) / spread, n - 1) if spread > 0 else float(mean == 0)
    return {"difference": mean, "ci95": (mean - half, mean + half), "p": float(p), "n": n}
