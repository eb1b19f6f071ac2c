"""Writes docs/spec.md and searchspaces/spec.schema.json from the types: `python -m platform.reference`."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from platform.chains.stages import DEFAULTS, STAGES
from platform.project import ROOT
from platform.search.samplers import SAMPLERS
from platform.specs.domains import ARGUMENTS, VERBS
from platform.specs.error import models_in
from platform.specs.spec import Spec
from trainables.data_steps import DATA_STEPS
from trainables.methods import METHODS

MARKDOWN: Final = Path("docs/spec.md")
SCHEMA: Final = Path("searchspaces/spec.schema.json")

_INTRODUCTION: Final = """# The spec

Generated from the types by `python -m platform.reference`; a test fails when this page is stale.

A spec is a YAML 1.2 file: one study, that is one method, its data, the space of its parameters, and how that space is
searched. `python -m platform.sweep SPEC.yaml` runs it, `--dry-run` shows what it would do, and `--set a.b=c` overrides
any key; the value is YAML. An unknown key, a value outside its range and a parameter that the method does not have are
refused before anything starts. *required* keys have no default.
"""
_PARAMS: Final = """
A parameter has a value, or a verb in whose range the search chooses. Parameters may be nested; a dotted key is the same
as a nested one. Without any verb, the spec is one plain training run. A verb may have a condition,
`{choice: [16, 32], when: {model: cnn}}` or `when: {model: [cnn, inception1d]}`: the parameter then exists only where
the other one has that value (or one of those), and every condition holds.
"""
_STAGES: Final = """
A chain has `stages` in the place of `method` and `params`; [chains.md](chains.md) says how. A stage takes the keys
above but `name` and `tracking`, and these:
"""
_VERBS: Final = "Ranges include both ends, in every verb."
_SAMPLERS: Final = """
Optuna falls back to random draws without a word where a sampler cannot do what is asked; here that is refused.
*stopped*: learns from trials that the scheduler stopped, and so may stand beside a scheduler. *constraints*: learned;
reported: learned, but only bounds on what training shows, not on `parameters` and `onnx_bytes`; filtered: proposals and
results are judged by them, and the sampler learns from nothing; refused."""


# ------------------------------------------------------------------ docs/spec.md


def markdown() -> str:
    """Return the text of docs/spec.md."""
    parts = [_INTRODUCTION, "## The keys of a spec", _table([*_rows(Spec, "")])]
    for name, field in Spec.model_fields.items():
        if name != "params":
            for model in models_in(field.annotation):
                parts += _section(model, name)
    parts += ["## params", _PARAMS]
    for name, method in METHODS.items():
        parts += [f"### method: {name}", _table([*_rows(method.config, "")]), *_inner_sections(method.config)]
    parts += ["## stages", _STAGES, _table(_STAGE_KEYS)]
    for name, step in DATA_STEPS.items():
        parts += [f"### step: {name}", _table([*_rows(step.config, "")])]
    parts += ["## Verbs", _VERBS, _verb_table(), "## Samplers", _SAMPLERS, _sampler_table()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_STAGE_KEYS: Final = (
    ("key", "type", "description"),
    ("`from`", "text", "stage whose best trial gives the method and the parameters: `teacher.best`"),
    ("`step`", "text", "a data step, in the place of a method"),
    ("`select`", "mapping", "of a data step with verbs: the measure (`metric`, `mode`) by which the best is chosen"),
)


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    """Yield a heading and a table for a model, then for the models below it."""
    yield f"{'#' * min(4, path.count('.') + 2)} {path}"
    yield (model.__doc__ or "").strip().splitlines()[0]
    yield _table([*_rows(model, "")])
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            yield from _section(inner, f"{path}.{name}{'[]' if _is_list(field) else ''}")


def _inner_sections(config: type[BaseModel]) -> Iterator[str]:
    """Yield a heading and a table for each model that a parameter may hold."""
    for name, field in config.model_fields.items():
        for inner in models_in(field.annotation):
            kind = inner.model_fields["kind"].default if "kind" in inner.model_fields else inner.__name__
            yield f"#### {name}{'[]' if _is_list(field) else ''}: {kind}"
            yield (inner.__doc__ or "").strip().splitlines()[0]
            yield _table([*_rows(inner, "")])


def _is_list(field: FieldInfo) -> bool:
    return "tuple[" in str(field.annotation) or "list[" in str(field.annotation)


def _rows(model: type[BaseModel], prefix: str) -> Iterator[Sequence[str]]:
    yield ("key", "type", "default", "unit", "range", "description")
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}
        is_constant = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        description = (field.description or ("says which it is" if is_constant else "")).strip()
        assert description, f"{model.__name__}.{name} has no description"
        yield (
            f"`{prefix}{name}`",
            type_text(field.annotation),
            _default_text(field),
            str(extra.get("unit", "")),
            ", ".join(dict.fromkeys(_ranges(field))),
            description,
        )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(re.sub(" +", " ", f"| {' | '.join(line)} |") for line in lines)


def type_text(annotation: Any) -> str:
    """Write a type as users see it: a choice of words, a list, a mapping."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(argument) for argument in arguments))
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    words = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", type(None): "null"}
    return words.get(annotation, "mapping")


def _default_text(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    if field.default is PydanticUndefined:
        return "*required*"
    if field.default is None:
        return "null"
    return f"`{json.dumps(field.default, default=_to_fields)}`"


def _to_fields(default: BaseModel) -> dict[str, Any]:
    return default.model_dump(mode="json", exclude_unset=True)


_SIGNS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _ranges(field: FieldInfo) -> Iterator[str]:
    yield from _bounds(field.metadata)
    yield from _inner_ranges(field.annotation)


def _inner_ranges(annotation: Any) -> Iterator[str]:
    """Yield the bounds that stand inside a type, as in `Annotated[int, Field(ge=1)] | None`."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        for metadata in arguments[1:]:
            yield from _bounds(metadata.metadata if isinstance(metadata, FieldInfo) else [metadata])
        arguments = arguments[:1]
    if get_origin(annotation) is not Literal:
        for argument in arguments:
            yield from _inner_ranges(argument)


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for item in metadata:
        for name, sign in _SIGNS.items():
            if getattr(item, name, None) is not None:
                yield f"{sign} {getattr(item, name):,}"
        if isinstance(item, annotated_types.MinLen):
            yield f"length ≥ {item.min_length}"
        if isinstance(item, annotated_types.MaxLen):
            yield f"length ≤ {item.max_length}"
        if getattr(item, "pattern", None) is not None:
            yield f"`{item.pattern}`"


def _verb_table() -> str:
    rows: list[Sequence[str]] = [("verb", "arguments", "values")]
    for verb, domain in VERBS.items():
        summary = re.sub(r"\s+", " ", (domain.__doc__ or "").strip())
        rows.append((f"`{verb}`", f"`{ARGUMENTS[verb]}`", summary))
    return _table(rows)


def _sampler_table() -> str:
    head = (
        "sampler",
        "conditional",
        "`choice`",
        "continuous",
        "several objectives",
        "stopped",
        "constraints",
        "options",
        "",
    )
    rows: list[Sequence[str]] = [head]
    for name, facts in SAMPLERS.items():
        able = (facts.conditional, facts.categorical, facts.continuous, facts.objectives, facts.stopped)
        options = ", ".join(f"`{option}`" for option in sorted(facts.options))
        rows.append((f"`{name}`", *("yes" if yes else "no" for yes in able), facts.constraints, options, facts.note))
    return _table(rows)


# ------------------------------------------------------------------ searchspaces/spec.schema.json


def schema() -> dict[str, Any]:
    """Return the JSON schema of a spec file, for editors: it completes keys, and marks most of what is refused."""
    study = Spec.model_json_schema()
    definitions = study.pop("$defs")
    definitions["when"] = {
        "type": "object",
        "minProperties": 1,
        "description": "the parameter exists only where these others have the value, or one of the values",
    }
    definitions |= {f"verb_{verb}": _verb_schema(verb) for verb in VERBS}
    study["properties"]["method"] |= {"enum": list(METHODS)}
    study["properties"]["params"] = {"type": "object", "description": study["properties"]["params"]["description"]}
    definitions |= _chain_schemas(study, definitions)
    study["allOf"] = [_method_rule(name, method.config, definitions) for name, method in METHODS.items()]
    definitions["study"] = study
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "if": {"required": [STAGES]},
        "then": {"$ref": "#/$defs/chain"},
        "else": {"$ref": "#/$defs/study"},
        "$defs": definitions,
    }


def _chain_schemas(study: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of a chain, of a stage, and of their sections, in which nothing is required by itself."""
    reference = {
        "type": "object",
        "description": "what an earlier stage has left: STAGE.ARTEFACT",
        "properties": {"from": {"type": "string"}},
        "required": ["from"],
        "additionalProperties": False,
    }
    sections: dict[str, Any] = {}
    defaults = {key: _loose(study["properties"][key], definitions, sections) for key in DEFAULTS}
    own = {
        "method": study["properties"]["method"],
        "params": study["properties"]["params"],
        "from": {"type": "string", "description": "stage whose best trial gives method and parameters: STAGE.best"},
        "step": {"enum": list(DATA_STEPS), "description": "the data step"},
        "select": {"$ref": "#/$defs/Objective", "description": "by what the best point of a data step is chosen"},
    }
    stage = {
        "type": "object",
        "properties": {**defaults, **{key: _or_null(value) for key, value in own.items()}},
        "additionalProperties": False,
        "allOf": [_method_rule(name, method.config, definitions, _REFERENCE) for name, method in METHODS.items()],
    }
    chain = {
        "type": "object",
        "properties": {
            "name": study["properties"]["name"],
            "tracking": study["properties"]["tracking"],
            **defaults,
            STAGES: {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/stage"}},
        },
        "required": ["name", STAGES],
        "additionalProperties": False,
    }
    return {"chain": chain, "stage": stage, "reference": reference, **sections}


_REFERENCE: Final = {"$ref": "#/$defs/reference"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _loose(schema: dict[str, Any], definitions: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Return a section's schema, or null, with its definition copied into `sections` without what it requires."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_loose(each, definitions, sections) for each in schema["anyOf"]]}
    if "$ref" not in schema:
        return _or_null(schema)
    name = schema["$ref"].rpartition("/")[2]
    whole = {key: value for key, value in definitions[name].items() if key != "required"}
    properties = {key: {"anyOf": [value, {"type": "null"}, _REFERENCE]} for key, value in whole["properties"].items()}
    sections[f"{name}_of_a_stage"] = {**whole, "properties": properties}
    return _or_null({**schema, "$ref": f"#/$defs/{name}_of_a_stage"})


def _verb_schema(verb: str) -> dict[str, Any]:
    domain = VERBS[verb]
    n_arguments = ARGUMENTS[verb].count(",") + 1
    number = {"type": "integer" if "int" in verb else "number"}
    arguments: dict[str, Any] = {"type": "array", "minItems": n_arguments, "maxItems": n_arguments, "items": number}
    if verb == "choice":
        arguments = {"type": "array", "minItems": 1}
    return {
        "type": "object",
        "description": f"{verb}: {ARGUMENTS[verb]}. {(domain.__doc__ or '').strip().splitlines()[0]}",
        "properties": {verb: arguments, "when": {"$ref": "#/$defs/when"}},
        "required": [verb],
        "additionalProperties": False,
    }


def _method_rule(
    name: str, config: type[BaseModel], definitions: dict[str, Any], *further: dict[str, Any]
) -> dict[str, Any]:
    """Return the rule that `params` are those of the method, each a value, a verb, or one of `further`."""
    adapter = TypeAdapter(config).json_schema(ref_template="#/$defs/{model}")
    definitions |= {key: _with_references(value) for key, value in adapter.pop("$defs", {}).items()}
    verbs = [*({"$ref": f"#/$defs/verb_{verb}"} for verb in VERBS), *further]
    properties = {key: _value_or_verb(value, verbs) for key, value in adapter["properties"].items()}
    params = {"properties": properties, "additionalProperties": False, "patternProperties": {r"\.": {}}}
    return {
        "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
        "then": {"properties": {"params": params}},
    }


def _with_references(definition: dict[str, Any]) -> dict[str, Any]:
    """Let what an earlier stage has left stand for a text of a parameter that is a mapping."""
    properties = {
        key: {"anyOf": [value, _REFERENCE]} if value.get("type") == "string" and "const" not in value else value
        for key, value in definition.get("properties", {}).items()
    }
    return {**definition, "properties": properties} if properties else definition


def _value_or_verb(value: dict[str, Any], verbs: list[dict[str, str]]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: value[key] for key in ("title", "description", "default") if key in value}
    rest = {key: item for key, item in value.items() if key not in kept}
    return {**kept, "anyOf": [rest, *verbs]}


def documents() -> dict[Path, str]:
    """Return what is generated: path, from the repository's root -> text."""
    return {MARKDOWN: markdown(), SCHEMA: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"}


def main() -> None:
    for path, text in documents().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
