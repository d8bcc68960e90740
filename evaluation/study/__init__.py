"""A study with people: its page, its answers, its scores."""
