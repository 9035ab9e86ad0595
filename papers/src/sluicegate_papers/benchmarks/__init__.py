"""Benchmarks: what the library costs, as ratios to the plain thing measured beside it."""
