"""Metrics of the field's benchmarks, on a model in memory."""
