"""Reading a spec file: YAML 1.2 with the line of every key, and the keys that `--set` overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from platform.specs.error import KeyPath, SpecError, key_text

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 50
MAX_NODES: Final = 20_000
"""Keys and values, those that aliases repeat included."""

_MERGE_TAG: Final = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class SpecFile:
    """The values of a spec file, overrides applied, and the place that each key comes from."""

    name: str
    values: dict[str, Any]
    places: Mapping[KeyPath, str]

    def place(self, path: KeyPath) -> str:
        """Return where a key stands, or the section that lacks it: `FILE:LINE`, or `--set KEY`."""
        below = [place for known, place in self.places.items() if path and known[: len(path)] == path]
        if below:
            # What an override changed below the key is the likelier culprit than the file.
            return next((place for place in below if place.startswith("--set")), below[0])
        return self.place(path[:-1]) if path else self.name

    def error(self, path: KeyPath, rule: str, suggestion: str | None = None) -> SpecError:
        return SpecError(self.place(path), path, rule, suggestion)


def read_spec_file(path: Path, overrides: Sequence[str] = ()) -> SpecFile:
    """Read a YAML file into plain values, and apply overrides in order.

    Args:
        overrides: `a.b=c`, the value in YAML.

    Raises:
        SpecError: the file is missing, too large, not YAML, gives a key twice, or is not a mapping.
    """
    values, lines = _parse(_read_text(path), str(path))
    if not isinstance(values, dict):
        raise SpecError(str(path), (), f"a spec is a mapping of keys, but got {type(values).__name__}")
    file = SpecFile(str(path), values, {key: f"{path}:{line}" for key, line in lines.items()})
    for override in overrides:
        file = _override(file, override)
    return file


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise SpecError(str(path), (), "no such file; give the path of a spec, e.g. searchspaces/quickstart.yaml")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(str(path), (), f"a spec has at most {MAX_BYTES:,} bytes, but got {path.stat().st_size:,}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(str(path), (), f"must be UTF-8 text, but byte {error.start} is not; save it as UTF-8") from None


# ------------------------------------------------------------------ YAML


def _parse(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """Return the values, and the line (from 1) of every key path."""
    try:
        _check_bounds(text, name)
        node = _yaml().compose(text)
        if node is None:
            return None, {}
        lines = dict(_lines((), node, _Count(name)))
        return _unshared(_yaml().load(text)), lines
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark is not None else name
        rule = (error.problem or error.context or "malformed").split("(original")[0]
        raise SpecError(place, (), f"not valid YAML: {rule}") from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(name, (), f"not valid YAML: {error}") from None


def _unshared(value: Any) -> Any:
    """Copy what aliases share, so that an override of one key changes no other."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)  # the C parser reads YAML 1.1, in which 1e-3 is text


def _check_bounds(text: str, name: str) -> None:
    """Refuse what would take long to build, before it is built."""
    depth = n_events = 0
    for event in _yaml().parse(text):
        n_events += not isinstance(event, CollectionEndEvent | AliasEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        place = f"{name}:{event.start_mark.line + 1}"
        if depth > MAX_DEPTH:
            raise SpecError(place, (), f"a spec nests at most {MAX_DEPTH} levels; flatten it")
        if n_events > MAX_NODES:
            raise SpecError(place, (), f"a spec has at most {MAX_NODES:,} keys and values; shorten it")


class _Count:
    """Counts visited nodes: a few lines of aliases to aliases stand for billions."""

    def __init__(self, name: str) -> None:
        self._name, self._n_nodes = name, 0

    def visit(self, path: KeyPath, node: Node) -> None:
        self._n_nodes += 1
        place = f"{self._name}:{node.start_mark.line + 1}"
        if self._n_nodes > MAX_NODES:
            raise SpecError(place, (), f"aliases make more than {MAX_NODES:,} keys and values; write them out")
        if len(path) > MAX_DEPTH:
            raise SpecError(place, (), f"aliases nest more than {MAX_DEPTH} levels; write them out")


def _lines(path: KeyPath, node: Node, count: _Count) -> Iterator[tuple[KeyPath, int]]:
    count.visit(path, node)
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines((*path, index), item, count)
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                yield from _lines(path, value, count)
                continue
            here = (*path, key.value if isinstance(key, ScalarNode) else "?")
            yield here, key.start_mark.line + 1
            yield from _lines(here, value, count)


# ------------------------------------------------------------------ --set


def _override(file: SpecFile, override: str) -> SpecFile:
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    place = f"--set {key.strip()}"
    if not equals or not all(path):
        raise SpecError(f"--set {override}", (), "must be KEY=VALUE with a dotted key, e.g. budget.trials=10")
    value, _ = _parse(text, place)
    values = _unshared(file.values)
    _assign(values, path, value, place)
    kept = {known: line for known, line in file.places.items() if known[: len(path)] != path}
    return SpecFile(file.name, values, {**kept, path: place})


def _assign(values: dict[str, Any], path: tuple[str, ...], value: Any, place: str) -> None:
    node = values
    for depth, part in enumerate(path[:-1], start=1):
        if node.get(part) is None:
            node[part] = {}
        if not isinstance(node[part], dict):
            section = key_text(path[:depth])
            rule = f"{section} is no section, but {node[part]!r}; set {section} as a whole"
            raise SpecError(place, (), rule)
        node = node[part]
    node[path[-1]] = value
