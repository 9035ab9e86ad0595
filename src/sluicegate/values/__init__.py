"""Values: items, edits of weights, recall curves, schedules. Nothing here loads a model or opens a run."""
