"""What a command prints: for a person, or as JSON lines on stdout with everything else on stderr."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from rich.console import Console, RenderableType

LOG_WIDTH = 132
_stdout: TextIO | None = None


def print_json(content: Mapping[str, object]) -> None:
    """One JSON line on the real stdout, wherever file descriptor 1 points now."""
    stream = _stdout or sys.stdout
    stream.write(json.dumps(content) + "\n")
    stream.flush()


def abandon_stdout() -> None:
    """What is still to be written to a stdout that takes no more is not written at the end of the process either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, (_stdout or sys.stdout).fileno())


class Output:
    """Standard output of a command.

    With `as_json`, file descriptor 1 is pointed at stderr for everybody else in the process, libraries and their
    subprocesses included, and only `emit` writes to the real stdout.

    Args:
        as_json: JSON lines instead of text.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        if as_json:
            _take_stdout()
        self.console = Console(stderr=as_json)
        if not self.console.is_terminal:
            self.console.width = LOG_WIDTH

    def say(self, text: RenderableType) -> None:
        """Something for a person to read; brackets in a text are printed as they are."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=isinstance(text, str))

    def working(self, text: str) -> AbstractContextManager[object]:
        """Show on a terminal, for as long as it lasts, what somebody waits for; nothing stays of it."""
        return self.console.status(text) if self.console.is_terminal else nullcontext()

    def emit(self, content: Mapping[str, object]) -> None:
        """One JSON line; nothing without `as_json`."""
        if self.as_json:
            print_json(content)


def _take_stdout() -> None:
    global _stdout
    if _stdout is None:
        sys.stdout.flush()
        _stdout = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
