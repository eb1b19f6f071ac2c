from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data.printable import has_control, printable


@given(st.text())
def test_what_is_printable_has_no_control_character_but_line_ends_and_tabs(text: str) -> None:
    assert not has_control(printable(text).replace("\n", "").replace("\t", ""))
    if not has_control(text):
        assert printable(text) == text


def test_a_terminals_commands_are_written_out() -> None:
    assert printable("a\x1b[2J\x07b\x9b") == "a\\x1b[2J\\x07b\\x9b"
