"""Coverage of intervals on lists of few people, in simulation: how often an interval of 95 % holds the true mean.

python -m evaluation.coverage --data_root data/grid --splits test_unseen val_unseen
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from corpora.corpus import speaker
from data import Clips
from errors import InputError, exit_code
from evaluation.bootstrap import estimate, limits, resampled, resamples_of
from hparams import HParams

SHARES = 0.0, 0.25, 0.5, 0.75  # of the variance between people
RESAMPLES = 400  # of each simulated list
CLIPS, SPEAKERS, OURS = "clips resampled", "speakers resampled, then their clips", "as printed"


def of_clips(scores, people):
    """The percentile interval of a bootstrap over clips, which takes no notice of who speaks."""
    return limits(resampled(scores, np.ones(len(scores)), resamples_of(len(scores), RESAMPLES)))


def of_speakers(scores, people):
    """The percentile interval of a two-level bootstrap: speakers are resampled, then the clips of each drawn one."""
    rng, groups = np.random.default_rng(0), [scores[people == each] for each in np.unique(people)]
    sums, clips = np.zeros((2, RESAMPLES))
    for chosen in rng.integers(len(groups), size=(len(groups), RESAMPLES)):
        for number, group in enumerate(groups):
            drawn = np.flatnonzero(chosen == number)
            sums[drawn] += group[rng.integers(len(group), size=(len(drawn), len(group)))].sum(1)
            clips[drawn] += len(group)
    return limits(sums / clips)


def as_printed(scores, people):
    """The interval that the evaluation prints."""
    found = estimate([(score, 1) for score in scores], people)
    return found["low"], found["high"]


METHODS = {CLIPS: of_clips, SPEAKERS: of_speakers, OURS: as_printed}


def coverage(sizes, share, trials, seed=0):
    """How often each interval holds the true mean of people and clips: {method: share}, without those it lacks.

    sizes: the clips of each person.  share: of the variance of a clip's score, that is between people; both are normal.
    """
    rng, people = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    held = {name: [] for name in METHODS}
    for _ in range(trials):
        own, rest = rng.normal(size=len(sizes))[people], rng.normal(size=len(people))
        scores = np.sqrt(share) * own + np.sqrt(1 - share) * rest
        for name, method in METHODS.items():
            low, high = method(scores, people)
            if low is not None:
                held[name].append(low <= 0 <= high)
    return {name: float(np.mean(each)) for name, each in held.items() if each}


def evaluate(args):
    """Prints a table for each list."""
    if args.trials < 1:
        raise InputError(f"--trials {args.trials}: must be at least 1")
    for split in args.splits:
        sizes = list(Counter(speaker(name) for name in Clips(args.data_root, split, HParams()).names).values())
        of = ", ".join(map(str, sorted(sizes, reverse=True)))
        print(f"| {split}: {len(sizes)} people, clips {of}; variance between people | {' | '.join(METHODS)} |")
        print("|---" * (1 + len(METHODS)) + "|")
        for share in SHARES:
            found = coverage(sizes, share, args.trials)
            cells = [f"{found[name]:.1%}" if name in found else "none is printed" for name in METHODS]
            print(f"| {share:.0%} | {' | '.join(cells)} |", flush=True)
        print()


def main(argv=None):
    """Parses the flags and prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--splits", nargs="+", default=["test_unseen"], help="lists of it (default: test_unseen)")
    parser.add_argument("--trials", default=4000, type=int, help="simulated lists (default: %(default)s)")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
