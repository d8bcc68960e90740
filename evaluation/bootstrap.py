"""Intervals by bootstrap over clips, or raters: of means, of corpus rates and of paired differences."""

import numpy as np

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95


def resampled(sums, weights, chosen):
    """The rate sum(sums) / sum(weights) of each resample of clips; nan where it has no weight.

    sums, weights: (clips,).  chosen: (resamples, clips) int. Returns (resamples,).
    """
    total = weights[chosen].sum(1)
    return np.divide(sums[chosen].sum(1), total, out=np.full(len(chosen), np.nan), where=total > 0)


def resamples_of(clips, resamples=RESAMPLES):
    """The clips that each resample is made of, the same every time: (resamples, clips) int."""
    return np.random.default_rng(SEED).integers(clips, size=(resamples, clips))


def limits(values):
    """The low and the high end of the percentile interval of resampled values; None, None without any."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def estimate(pairs, resamples=RESAMPLES):
    """A rate over clips with its 95 % interval: {"value", "low", "high"}; all None where nothing was counted.

    pairs: for each clip a sum and its weight: a score and 1 for a mean over clips, errors and words for a corpus rate.
    One clip alone has no interval.
    """
    sums, weights = np.array(pairs, np.float64).reshape(-1, 2).T
    if not weights.sum():
        return {"value": None, "low": None, "high": None}
    low, high = limits(resampled(sums, weights, resamples_of(len(sums), resamples))) if len(sums) > 1 else (None, None)
    return {"value": float(sums.sum() / weights.sum()), "low": low, "high": high}


def difference(pairs, others):
    """The rate of `pairs` less that of `others`, the same resamples for both, with its interval as in `estimate`."""
    (a, na), (b, nb) = (np.array(part, np.float64).reshape(-1, 2).T for part in (pairs, others))
    if not na.sum() or not nb.sum():
        return {"value": None, "low": None, "high": None}
    chosen = resamples_of(len(a))
    low, high = limits(resampled(a, na, chosen) - resampled(b, nb, chosen)) if len(a) > 1 else (None, None)
    return {"value": float(a.sum() / na.sum() - b.sum() / nb.sum()), "low": low, "high": high}
