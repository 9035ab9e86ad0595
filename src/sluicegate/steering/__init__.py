"""Steering vectors, and hundreds of orthogonal twins of one.

A vector is added to a module's output (`vector`). It is found from contrastive prompts (`meandiff`, `pca`) or without
any (`melbo`); `orthogonal` finds vectors that do the same as a given one and are orthogonal to it and to each other.
`parts` runs only the layers that a vector can change, `score` measures what it does, `dose` how much of it, `prompts`
holds benign prompts and rules, `io` reads and writes.
"""
