"""Experts: frozen networks, each with its own view of the same record, whose features an ensemble learns from."""
