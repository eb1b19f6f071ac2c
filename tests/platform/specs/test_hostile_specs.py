"""Whatever text a spec is, it is a spec or one line that says why not; and no spec names code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from platform.chains.stages import is_chain, parse_chain
from platform.specs.error import SpecError
from platform.specs.spec import parse_spec

fuzzed = settings(
    max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["tpe", "val/auroc", "max", "supervised", "cnn", "nan", "1e400", "../x", "\x1b[2J", "{{7*7}}"]),
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "name",
        "seed",
        "method",
        "data",
        "params",
        "search",
        "constraints",
        "budget",
        "resources",
        "store",
        "labels",
        "preprocess",
        "lr",
        "model",
        "choice",
        "uniform",
        "loguniform",
        "metric",
        "mode",
        "sampler",
        "trials",
        "epochs",
        "stages",
        "from",
        "step",
        "storage",
        "tracking",
        "uri",
        "folds",
        "k",
        "repeats",
        "seeds",
        "targets",
        "stop_when",
        "avoid",
        "ensemble",
        "top",
        "weights",
    ]
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5)
)
WHOLE = {
    "name": "tiny",
    "method": "supervised",
    "data": {"store": "stores/tiny"},
    "params": {"lr": {"loguniform": [1e-4, 1e-1]}},
    "search": {"metric": "val/auroc", "mode": "max"},
    "budget": {"trials": 4, "epochs": 9},
}


def parse(path: Path) -> None:
    """Parse a study or a chain; only the documented error may come of it, on one line, without control characters."""
    text = _refusal(path)
    assert text is None or (text.strip() and "\n" not in text and "\x1b" not in text)


def _refusal(path: Path) -> str | None:
    try:
        if is_chain(path):
            parse_chain(path)
        else:
            parse_spec(path)
    except SpecError as error:
        return str(error)
    return None


@fuzzed
@given(text=st.one_of(st.text(max_size=300), st.text("{}[]:,-&*!|>#'\"\n ab1", max_size=60)))
def test_any_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    parse(path)


@fuzzed
@given(data=st.data())
def test_a_spec_with_anything_in_the_place_of_a_section(tmp_path: Path, data: st.DataObject) -> None:
    values: dict[str, Any] = {**WHOLE, data.draw(KEYS): data.draw(TREES)}
    path = tmp_path / "s.yaml"
    with path.open("w", encoding="utf-8", errors="replace") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    parse(path)


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "a: &a [*a]",
        "\n".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(9)),
        "[" * 10_000,
        "name: " + "x" * 2_000_000,
    ],
)
def test_yaml_that_names_code_or_grows_without_end_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError):
        parse_spec(path)


def test_a_tracking_address_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump({**WHOLE, "tracking": {"uri": "http://me:hunter2@host:5000"}}, file)
    with pytest.raises(SpecError, match=r"MLFLOW_TRACKING_PASSWORD in the environment") as error:
        parse_spec(path)
    assert "hunter2" not in str(error.value)
