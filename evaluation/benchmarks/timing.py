"""Timing of benchmarks: ways to do the same are timed in turns, and their medians compared."""

import time

import numpy as np


def seconds(work, least_s=0.0):
    """The mean time in s that a call of `work` takes, over as many calls as fill `least_s`, one at least."""
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < least_s:
        work()
        calls += 1
    return (time.perf_counter() - start) / calls


def in_turns(ways, rounds, measure=seconds, warm=True):
    """Measures some functions in turns, so that whatever else the machine does slows all of them alike.

    measure: what is measured of each, by default the time of one call.  warm: each is called once before.
    Returns an array (rounds, ways), or (rounds, ways, n) where n numbers are measured.
    """
    for work in ways if warm else ():
        work()
    return np.array([[measure(work) for work in ways] for _ in range(rounds)])


def medians(times):
    """Compares two ways: the median of each, and the median of how many times as fast the second is.

    times: (rounds, 2), see `in_turns`.
    """
    return *np.median(times, axis=0), np.median(times[:, 0] / times[:, 1])
