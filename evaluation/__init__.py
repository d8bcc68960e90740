"""Measures of how a talking face looks, how it fits its sound, and whether it can be read."""
