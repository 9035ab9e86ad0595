"""Unlearning: suppress a forget set, then distil so that the weights no longer hold it."""
