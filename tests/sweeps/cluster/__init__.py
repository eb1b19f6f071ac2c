"""Sweeps on several Ray nodes, all on the loopback."""
