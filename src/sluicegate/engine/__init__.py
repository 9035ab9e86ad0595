"""The engine: load models, turn text into ids, fetch, sample rows, train, score."""
