"""Scores on records, and the pages that show them."""
