"""How long a price takes to become a decision, ours beside the usual script: `python -m benchmarks`."""
