"""Generators of bad inputs, one module a kind: `cases(rng, place)` writes each into `place` and says how to run it."""
