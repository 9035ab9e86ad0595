"""Scalable oversight in a gridworld: an agent that may reach a Diamond or a Ghost, of which only a share is overseen.

After Cloud et al. 2024 (arXiv 2410.04332), section 4.3. What is here imports torch inside functions only, `nets`, `objective`,
`steer` and `train` apart.
"""
