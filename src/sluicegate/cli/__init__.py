"""The kit of the command line: options, progress, tables."""
