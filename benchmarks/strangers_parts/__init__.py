"""The models of `benchmarks/strangers.py` and what is asked of each."""
