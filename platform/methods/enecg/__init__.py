"""The outcome of an EnECG sweep."""
