"""The outcome of a PEFT sweep."""
