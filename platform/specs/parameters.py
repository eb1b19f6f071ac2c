"""The values of a spec's `params` against the types of the method's own configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from platform.specs.domains import VERBS, Domain
from platform.specs.error import broken_rule, faults, models_in
from platform.specs.search_space import nearest
from platform.specs.sections import Section
from trainables.methods import METHODS


def probes(domain: Domain) -> list[Any]:
    """Return values that a method must take if it takes the domain: the ends, and one that is not round."""
    if domain.n_values is None:
        return [domain.from_unit(0.0), domain.from_unit(1 / math.e), domain.from_unit(1.0)]
    if domain.verb == "choice":
        return [domain.value_at(index) for index in range(domain.n_values)]
    return [domain.value_at(index) for index in sorted({0, domain.n_values // 2, domain.n_values - 1})]


def check_parameter(method: str, name: str, values: Sequence[Any]) -> None:
    """Check that a method takes these values of a parameter, each by itself.

    Raises:
        PydanticCustomError: it does not, or has no such parameter.
    """
    path = name.split(".")
    adapter = _adapter(method, path)
    for value in values:
        try:
            if adapter is not None:
                _check_type(adapter.validate_python(value), value)
        except ValidationError as error:
            raise _param_fault(error, ("params", *path), value) from None


def _check_type(taken: Any, value: Any) -> None:
    """Refuse `true` and text where a number is meant; pydantic would convert them."""
    if type(taken) in (int, float) and isinstance(value, bool | str):
        raise ValidationError.from_exception_data("params", [{"type": "float_type", "input": value}])


def _param_fault(error: ValidationError, path: tuple[str, ...], value: Any) -> Exception:
    details = faults(error, Section, {})[0]
    rule = details.rule if repr(value) in details.rule else f"{details.rule} in {value!r}"
    return broken_rule(path, rule, details.suggestion)


def _adapter(method: str, path: Sequence[str]) -> TypeAdapter[Any] | None:
    """Return what validates the parameter at `path`, or None inside a mapping of any keys.

    Raises:
        PydanticCustomError: the method has no such parameter.
    """
    model: type[BaseModel] = METHODS[method].config
    for depth, part in enumerate(path, start=1):
        field = model.model_fields.get(part)
        if field is None:
            rule = f"{method} has no parameter of that name"
            raise broken_rule(("params", *path[:depth]), rule, nearest(part, list(model.model_fields)))
        if depth == len(path):
            return _field_adapter(field)
        inner = list(models_in(field.annotation))
        if not inner:
            _check_mapping(field, path, depth)
            return None
        model = inner[0]
    raise AssertionError("a path has at least one part")


def _check_mapping(field: FieldInfo, path: Sequence[str], depth: int) -> None:
    if "dict" in str(field.annotation) or "Mapping" in str(field.annotation):
        return
    rule = f"{path[depth - 1]} is one value or one verb ({', '.join(VERBS)}); got key {path[depth]!r}"
    raise broken_rule(("params", *path[: depth + 1]), rule, nearest(path[depth], list(VERBS)))


def _field_adapter(field: FieldInfo) -> TypeAdapter[Any]:
    annotation: Any = field.annotation
    for metadata in field.metadata:
        annotation = Annotated[annotation, metadata]
    return TypeAdapter(annotation)
