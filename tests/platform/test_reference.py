from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from platform.project import ROOT
from platform.reference import documents, schema
from platform.search.samplers import SAMPLERS
from platform.specs.domains import VERBS
from platform.specs.spec import Spec
from trainables.methods import METHODS

SPACES = sorted((ROOT / "searchspaces").glob("*.yaml"))


@pytest.mark.parametrize("path", documents(), ids=str)
def test_generated_documents_are_not_stale(path: Path) -> None:
    written = (ROOT / path).read_text(encoding="utf-8")
    assert written == documents()[path], f"{path} is stale; write it with `python -m platform.reference`"


def test_the_reference_has_every_key_verb_sampler_and_parameter() -> None:
    text = documents()[Path("docs/spec.md")]
    names = [*Spec.model_fields, *VERBS, *SAMPLERS]
    names += [name for method in METHODS.values() for name in method.config.model_fields]
    assert [name for name in names if f"\n| `{name}` |" not in text] == []


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def read(path: Path) -> Any:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_shipped_search_spaces_obey_the_schema(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(read(path))] == []
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=spec.schema.json\n")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("params", "lrr", 1e-3),
        ("params", "lr", {"uniform": [1]}),
        ("params", "lr", {"uniform": [0, 1], "choice": [1]}),
        ("params", "batch_size", {"randint": [0.5, 3]}),
        ("params", "model", "xresnet"),
        ("search", "sampler", "tpx"),
        ("budget", "trials", 0),
        ("data", "preprocess", [{"bandpas": {}}]),
    ],
)
def test_the_schema_marks_what_is_wrong(
    section: str, key: str, value: Any, validator: jsonschema.Draft202012Validator
) -> None:
    document = read(ROOT / "searchspaces/quickstart.yaml")
    document[section][key] = value
    assert list(validator.iter_errors(document))
