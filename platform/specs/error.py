"""One line of what is wrong with a spec: the place, the key path, the rule, the value and the nearest valid name."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from data.printable import printable
from platform.specs.search_space import nearest

KeyPath = tuple[str | int, ...]

_MAX_VALUE_LENGTH: Final = 60
_BROKEN_RULE: Final = "broken_rule"


class SpecError(ValueError):
    """A spec breaks a rule: `PLACE: key.path: rule; got VALUE; did you mean 'x'?`."""

    def __init__(self, place: str, path: KeyPath, rule: str, suggestion: str | None = None) -> None:
        parts = [place, key_text(path), rule] if path else [place, rule]
        text = ": ".join(parts) + (f"; did you mean {suggestion!r}?" if suggestion else "")
        super().__init__(printable(" ".join(text.split())))
        self.path = path


def key_text(path: KeyPath) -> str:
    """Write a key path as in `data.preprocess[0].bandpass`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def broken_rule(path: KeyPath, rule: str, suggestion: str | None = None) -> PydanticCustomError:
    """Build the error that a model's validator raises to point at a key below it."""
    context = {"rule": rule, "path": path, "suggestion": suggestion}
    return PydanticCustomError(_BROKEN_RULE, "{rule}", context)


@dataclass(frozen=True)
class Fault:
    """One broken rule of a document: where, what, and the nearest valid name."""

    path: KeyPath
    rule: str
    suggestion: str | None = None


def faults(error: ValidationError, model: type[BaseModel], values: Any) -> list[Fault]:
    """Translate pydantic's errors about `values`, the document that `model` was to be made of."""
    return [_fault(details, model, values) for details in error.errors(include_url=False)]


def _fault(details: ErrorDetails, model: type[BaseModel], values: Any) -> Fault:
    context = details.get("ctx", {})
    path = _document_path(details["loc"], values, takes_last=details["type"] in ("missing", "extra_forbidden"))
    if details["type"] == _BROKEN_RULE:
        return Fault((*path, *context["path"]), context["rule"], context["suggestion"])
    if details["type"] == "extra_forbidden":
        known = sorted({name for owner in _models_at(model, path[:-1]) for name in owner.model_fields})
        return Fault(path, "unknown key", nearest(str(path[-1]), known) if known else None)
    if details["type"] == "missing":
        return Fault(path, "required, but not given")
    rule = _rule(details["msg"])
    if not re.search(r"\bgot\b", rule):  # a model's own rule has said it, and its input is a whole section
        rule = f"{rule}; got {_shown(details['input'])}"
    return Fault(path, rule, _nearest_choice(details["input"], str(context.get("expected", ""))))


def _rule(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub(r"^[A-Z]\w* should ", "must ", message)
    message = re.sub(r"must be a valid dictionary( or instance of \w+)?$", "must be a mapping of keys", message)
    return message.replace("must be a valid tuple", "must be a list").replace("a valid string", "text")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


def _nearest_choice(value: Any, expected: str) -> str | None:
    return nearest(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else None


def _document_path(location: Sequence[str | int], values: Any, takes_last: bool) -> KeyPath:
    """Drop what pydantic adds to a location (the tags of unions), and keep what stands in the document."""
    path: list[str | int] = []
    node = values
    for index, part in enumerate(location):
        if _has(node, part):
            node = node[part]
        elif not (takes_last and index == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _has(node: Any, part: str | int) -> bool:
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)


def _models_at(model: type[BaseModel], path: KeyPath) -> list[type[BaseModel]]:
    """Return the models that a key path may lead to."""
    models = [model]
    for part in path:
        if isinstance(part, str):
            models = [
                inner
                for owner in models
                if part in owner.model_fields
                for inner in models_in(owner.model_fields[part].annotation)
            ]
    return models


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models that a type holds: `list[A | B] | None` holds A and B."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    for argument in arguments:
        yield from models_in(argument)
