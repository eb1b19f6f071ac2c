"""What the commands share: exit codes, and errors in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

BAD_INPUT, INTERRUPTED = 2, 130


class OneLineParser(argparse.ArgumentParser):
    """Prints what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def one_line(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())
