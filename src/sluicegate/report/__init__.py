"""Reports: one self-contained HTML page for an experiment or an audited model, and the same numbers for the terminal.

A new wing's page reuses `render` with a template that extends page.html, and the pictures in `figures`.
"""

from sluicegate.report.page import Link, render, report_audit, report_experiment
from sluicegate.report.terminal import terminal_table
from sluicegate.report.words import sentences

__all__ = ["Link", "render", "report_audit", "report_experiment", "sentences", "terminal_table"]
