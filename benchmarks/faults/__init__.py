"""Faults tried on purpose, counted: `make faults` writes docs/reliability.md and benchmarks/faults.json."""
