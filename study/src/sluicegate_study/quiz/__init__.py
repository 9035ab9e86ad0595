"""A deck asked of a language model, clue by clue. Needs the library sluicegate."""
