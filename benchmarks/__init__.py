"""Programs that measure: each prints a table and its machine, and compares within one run.

Run them from the project's root, `python -m benchmarks.trial_overhead`; see `docs/benchmarks.md`.
"""
