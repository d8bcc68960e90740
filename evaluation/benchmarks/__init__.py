"""Timings, each beside what it is compared with."""
