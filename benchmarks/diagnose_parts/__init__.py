"""Nets and faults of `benchmarks/diagnose.py`."""
