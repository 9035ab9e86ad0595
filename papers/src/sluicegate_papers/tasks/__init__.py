"""Tasks that only the reproductions use."""
