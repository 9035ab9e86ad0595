"""Decks: Markdown files of cards, tossups and bonuses; their lint, log, import and export."""
