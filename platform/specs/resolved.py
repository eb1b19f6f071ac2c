"""A resolved spec as text and as flat keys."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString


def resolved_yaml(values: dict[str, Any]) -> str:
    """Write a resolved spec's values, a section a block."""
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 100
    yaml.default_flow_style = None  # leaves in one line
    quoted: dict[str, Any] = _quoted(values)
    document = {key: _in_lines(value) if isinstance(value, dict) else value for key, value in quoted.items()}
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """Put text with control characters into double quotes, where they are escaped; elsewhere some read as blanks."""
    if isinstance(value, str):
        return value if value.isprintable() else DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(each) for key, each in value.items()}
    return [_quoted(each) for each in value] if isinstance(value, list | tuple) else value


def _in_lines(section: dict[str, Any]) -> CommentedMap:
    """Have a section written with a line a key."""
    lines = CommentedMap(section)
    lines.fa.set_block_style()
    return lines


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values with dotted keys; an empty mapping stays."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = sys.intern(f"{prefix}{key}")  # of all trials there is one
        flat |= flat_values(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat
