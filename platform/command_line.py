"""What the commands share: exit codes, and errors in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from data.printable import printable

BAD_INPUT, INTERRUPTED = 2, 130


class OneLineParser(argparse.ArgumentParser):
    """Prints what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def one_line(error: Exception | str) -> str:
    """Return an error's message on one line."""
    return printable(" ".join(str(error).split()))


def run_command(name: str, command: Callable[[], str | None], interrupted: str) -> int:
    """Print what `command` returns, or in one line why it could not; returns the exit code.

    Args:
        interrupted: what Ctrl-C leaves behind.
    """
    try:
        text = command()
    except (ValueError, OSError) as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED
    if text is not None:
        print(text)
    return 0
