"""Experiments: recipes over seeds and values, their claims, and their pages."""
