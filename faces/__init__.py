"""Finding, following, cutting out and putting back faces."""
