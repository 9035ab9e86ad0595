"""Execution: who runs stages. This process, local processes, torchrun, or a Ray cluster."""
