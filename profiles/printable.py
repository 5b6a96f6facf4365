"""Text from names and files as it may be shown: what would act on the reader is written out."""

import unicodedata

JOINERS = "\u200c\u200d"
"""Without them some scripts and pictures are other ones; they act on nothing else."""


def printable(text: str) -> str:
    """The text with every character that is neither seen nor a space as its escape: `\\x1b`.

    These move a terminal's cursor, turn the direction of a line, break it where no reader expects
    it, or make XML ill-formed. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or _is_seen(c) else _escape(c) for c in text)


def one_line(text: str) -> str:
    """The same, with line feeds and tabs written out too: a name that may not begin a line."""
    return "".join(c if _is_seen(c) else _escape(c) for c in text)


def _is_seen(character: str) -> bool:
    return (
        character.isprintable() or unicodedata.category(character) == "Zs" or character in JOINERS
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
