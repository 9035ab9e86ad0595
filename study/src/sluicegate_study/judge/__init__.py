"""The judge of answers, and how far stated confidence can be trusted."""
