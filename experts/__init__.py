"""Lip readers and sync models at work, and their training data."""
