"""Measures rmbus, and others beside it; see `scripts/bench` and docs/benchmarks/README.md."""
