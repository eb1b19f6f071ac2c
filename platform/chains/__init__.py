"""Several stages in one file, each of which may take what an earlier one made."""
