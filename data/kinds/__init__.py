"""Readers: one file a kind of data set, as its publisher ships it."""
