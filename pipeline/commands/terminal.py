"""What a command says to the terminal: the one way there, so that no name can act on it."""

import logging
import os
import sys
from typing import TextIO

import typer

from profiles.printable import printable

STDOUT, STDERR = 1, 2


def open_standard_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr ones that lead nowhere.

    Else the next files that it opens get their numbers, and what is printed ends up in them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w")
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w")


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
