"""The verbs of study."""
