"""Lectures: notes split into claims, predictions of what can be rebuilt, a test some days later, and the gap between
the two."""
