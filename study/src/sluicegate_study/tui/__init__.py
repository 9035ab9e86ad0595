"""The full-screen programs of `deck review` and `play`: a thin layer of textual over `sitting` and `playing`, which
know nothing of it.

Imported only where a program is run; textual is the extra ``tui``. Text of decks is never read as markup: it goes
through `base.assemble_content`.
"""
