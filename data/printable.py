"""Text from files that a terminal may show: control characters would move its cursor, or worse."""

from __future__ import annotations

import unicodedata


def has_control(text: str) -> bool:
    """Tell whether the text has a control character: none is needed in a name or a note."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def printable(text: str) -> str:
    r"""Return the text with its control characters written out (`\x1b`), line ends and tabs excepted."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) != "Cc" else f"\\x{ord(character):02x}"
        for character in text
    )
