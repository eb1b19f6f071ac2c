"""Faults that are injected into real sweeps; docs/reliability.md says what is promised of each."""
