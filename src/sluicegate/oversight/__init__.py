"""The board of scalable oversight: an agent that may reach a Diamond or a Ghost, of which only a share is overseen.

After Cloud et al. 2024 (arXiv 2410.04332), section 4.3. `board` is the world, and `gym` the same for Gymnasium's
agents; how agents are trained on it, with all their controls, is in `sluicegate_papers.oversight`.
"""
