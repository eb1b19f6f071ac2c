"""The search-space file, from its text to typed, checked objects."""
