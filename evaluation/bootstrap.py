"""Intervals of means, of corpus rates and of paired differences: over people, or over clips where one person speaks.

Clips of a person are alike, so that people are what is resampled where there are several. Percentiles of a bootstrap
are too narrow where there are few: `evaluation.coverage` shows by how much, and that what is done here is not.
"""

import numpy as np

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
LEAST, MANY = 3, 30  # people or clips: fewer have no interval; so many, and more, are resampled


def resampled(sums, weights, chosen):
    """The rate sum(sums) / sum(weights) of each resample of units; nan where it has no weight.

    sums, weights: (units,).  chosen: (resamples, units) int. Returns (resamples,).
    """
    total = weights[chosen].sum(1)
    return np.divide(sums[chosen].sum(1), total, out=np.full(len(chosen), np.nan), where=total > 0)


def resamples_of(units, resamples=RESAMPLES):
    """The units that each resample is made of, the same every time: (resamples, units) int."""
    return np.random.default_rng(SEED).integers(units, size=(resamples, units))


def limits(values):
    """The low and the high end of the percentile interval of resampled values; None, None without any."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def without_each(sums, weights):
    """The rate without each of the units in turn: (units,); nan where nothing is left."""
    rest = weights.sum() - weights
    return np.divide(sums.sum() - sums, rest, out=np.full(len(sums), np.nan), where=rest > 0)


def jackknifed(value, without):
    """The low and the high end of the interval of a few units, by Student's t; None, None where it cannot be told.

    value: the rate of all units.  without: (units,), that without each of them in turn.
    The squares of what each changes add up to the variance (jackknife), also where units differ much in size.
    """
    from scipy.special import stdtrit  # slow

    units = len(without)
    if np.isnan(without).any():
        return None, None
    error = np.sqrt((units - 1) / units * ((without - value) ** 2).sum())
    half = float(stdtrit(units - 1, (1 + LEVEL) / 2) * error)
    return value - half, value + half


def units_of(pairs, people=None):
    """The units that are resampled: sums and weights of people or, where all are one or none are given, of clips.

    pairs: see `estimate`.  people: who is seen in each clip. Returns (units,) twice.
    """
    sums, weights = np.array(pairs, np.float64).reshape(-1, 2).T
    if people is None or len(set(people)) < 2:
        return sums, weights
    numbers = np.unique(list(people), return_inverse=True)[1]
    return np.bincount(numbers, sums), np.bincount(numbers, weights)


def combined(parts, people, resamples):
    """The signed sum of rates with its interval, as `estimate`. parts: [(sign, pairs)], all of the same clips."""
    units = [(sign, *units_of(pairs, people)) for sign, pairs in parts]
    if not all(weights.sum() for _, _, weights in units):
        return {"value": None, "low": None, "high": None}
    counted = np.all([weights > 0 for _, _, weights in units], axis=0)
    count = int(counted.sum())
    value = float(sum(sign * sums.sum() / weights.sum() for sign, sums, weights in units))
    low = high = None
    if count >= MANY:
        chosen = resamples_of(len(counted), resamples)
        low, high = limits(sum(sign * resampled(sums, weights, chosen) for sign, sums, weights in units))
    elif count >= LEAST:
        without = sum(sign * without_each(sums, weights) for sign, sums, weights in units)
        low, high = jackknifed(value, without[counted])
    return {"value": value, "low": low, "high": high}


def estimate(pairs, people=None, resamples=RESAMPLES):
    """A rate with its 95 % interval: {"value", "low", "high"}; all None where nothing was counted.

    pairs: for each clip a sum and its weight: a score and 1 for a mean over clips, errors and words for a corpus rate.
    people: who is seen in each clip. The interval is over people, or over clips where all are of one or `people` is
    None: a bootstrap of `MANY` and more, Student's t of fewer; two people, or clips, have none.
    """
    return combined([(1, pairs)], people, resamples)


def difference(pairs, others, people=None):
    """The rate of `pairs` less that of `others`, paired by clip, with its interval as in `estimate`."""
    return combined([(1, pairs), (-1, others)], people, RESAMPLES)
