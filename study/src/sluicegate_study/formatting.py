"""Text of a deck as a terminal may show it: what could steer the terminal is shown, not sent."""

import unicodedata


def visible(text: str) -> str:
    """The text with control characters, and those that turn the direction of writing, written out as \\x1b or \\u202e; line ends stay."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c in "\u200c\u200d" else _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    return (
        " "
        if character == "\t"
        else f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )
