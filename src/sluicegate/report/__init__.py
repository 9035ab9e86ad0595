"""The kit of reports: pictures, numbers as they are written, and pages that are one self-contained HTML file."""
