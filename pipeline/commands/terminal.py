"""What a command says to the terminal: the one way there, so that no name can act on it."""

import logging
from typing import TextIO

import typer

from profiles.printable import printable


def echo(text: str) -> None:
    """Print a result on stdout, with control characters written out."""
    typer.echo(printable(text))


def message_handler(stream: TextIO) -> logging.Handler:
    """Writes messages, and nothing beside them, with control characters written out."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Printable("%(message)s"))
    return handler


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
