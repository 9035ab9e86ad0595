"""Study: cards, prerequisites, schedules, tossups and calibration. Nothing here imports torch.

`cards` are the values, `markdown` reads and writes them, `graph` and `lint` look at a deck, `log` and `memory` follow a learner.
"""
