"""Campaigns against the whole program: bad inputs, kills and races, each seeded and counted.

``python -m tests.campaign inputs 500`` hands the verbs so many broken files and words, and counts what became of them.
"""
