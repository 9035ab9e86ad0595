"""Scalable oversight in a gridworld: an agent that may reach a Diamond or a Ghost, of which only a share is overseen.

After Cloud et al. 2024 (arXiv 2410.04332), section 4.3. The board is the library's (`sluicegate.oversight`). Episodes,
evaluation, arms, settings and stopping rules need no torch; `nets`, `objective`, `steer`, `looking` and `train` do.
"""
