"""Measure what is left: attacks and probes that end in a curve."""
