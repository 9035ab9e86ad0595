"""Lectures: questions before, during and after a talk."""
