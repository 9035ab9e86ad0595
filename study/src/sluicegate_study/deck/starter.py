"""The deck that `deck new` writes: small, valid, without a finding, and an example of every kind of entry."""

STARTER = """+++
deck = "{name}"
category = ""
+++

A first deck. Text outside of cards, like this, is left alone. Change it, then: {program} deck check {folder}

Q: Two vectors of given lengths may point anywhere. When is their dot product largest?
A: When they point the same way
id: dot-product
topic: similarity
angle: meaning

Q: What is the dot product of two vectors at a right angle?
A: Zero
id: dot-right-angle
topic: similarity
angle: special case
needs: dot-product

C: A softmax turns scores into weights that sum to [1].
id: softmax-sum

---

T: A vector of these is what a query's dot products with all keys give. | Dividing them by the square root of the key size keeps
their variance in check. | (*) A softmax turns them into weights. | For 10 points, name these numbers, which say how well a query and
a key match.
ANSWER: attention **score**s [accept **logit**s; prompt on similarities by asking "what are they called in attention?"]
id: tu-scores
cards: dot-product

B: About vectors, for 10 points each:
[10e] How many components does a vector in the plane have?
ANSWER: **two**
[10m] What is the length of a vector divided by its length?
ANSWER: **one**
[10h] Which inequality bounds a dot product by the product of the lengths?
ANSWER: **Cauchy**-Schwarz inequality
id: bonus-vectors
"""
