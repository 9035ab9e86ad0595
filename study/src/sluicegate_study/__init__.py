"""Flash cards with prerequisites, spaced repetition, quiz bowl, and tests of lectures. `quiz` alone needs PyTorch and
the library.

`deck` reads and writes cards, tossups, bonuses, and the log of what a learner did; `judge` judges typed answers;
`review` schedules cards; `game` plays and models quiz bowl; `lecture` tests claims from notes; `quiz` asks a language
model; `tui` holds the full-screen programs.
"""
