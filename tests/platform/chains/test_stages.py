"""Chains are checked whole before anything starts: stages, references, order, and each stage's own spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from platform.chains.stages import Base, Reference, is_chain, parse_chain
from platform.specs.error import SpecError
from platform.specs.spec import Spec
from platform.specs.step import StepSpec
from tests.platform.counting_step import COUNTING
from trainables.data_steps import DATA_STEPS

ROOT = Path(__file__).parents[3]
CHAINS = sorted(path for path in (ROOT / "searchspaces").glob("*.yaml") if is_chain(path))
SHIPPED = dict(DATA_STEPS)

TEXT = """name: tiny
seed: 7
data: {store: stores/tiny, synthetic: {task: beats, n_records: 200}}
search: {metric: val/auroc, mode: max}
budget: {epochs: 9}
stages:
  teacher:
    method: supervised
    params: {model: cnn, channels: 8, depth: 3, lr: {loguniform: [1e-4, 1e-2]}}
    budget: {trials: 4}
  counts:
    step: counting
    params: {n_files: {choice: [2, 3]}, source: {from: teacher.best.weights}}
    select: {metric: total, mode: min}
  student:
    from: teacher.best
    params: {lr: 1e-3, weights: {from: teacher.best.weights}}
    budget: {epochs: 5}
"""

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _counting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*DATA_STEPS]:
        monkeypatch.delitem(DATA_STEPS, name)
    monkeypatch.setitem(DATA_STEPS, "counting", COUNTING)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(old: str = "", new: str = "", text: str = TEXT) -> Path:
        assert old in text
        path = tmp_path / "tiny.yaml"
        path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return path

    return write_text


def sweep_spec(path: Path, stage: str) -> Spec:
    spec = parse_chain(path).previews[stage]
    assert isinstance(spec, Spec)
    return spec


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_every_shipped_chain_is_valid_and_says_its_command_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.specs.step.DATA_STEPS", SHIPPED)
    assert parse_chain(path).name == path.stem
    assert f"python -m platform.sweep searchspaces/{path.name}" in path.read_text(encoding="utf-8").split("name:")[0]


def test_a_spec_with_stages_is_a_chain(write: Write) -> None:
    assert is_chain(write())
    assert not is_chain(write(text="name: tiny\nmethod: supervised\n"))


def test_sections_outside_are_defaults_key_by_key(write: Write) -> None:
    teacher = sweep_spec(write(), "teacher")
    assert (teacher.seed, teacher.budget.trials, teacher.budget.epochs) == (7, 4, 9)
    student = sweep_spec(write(), "student")
    assert (student.budget.trials, student.budget.epochs) == (1, 5)
    assert student.data == teacher.data


def test_null_in_a_stage_stands_for_the_sections_own_default(write: Write) -> None:
    path = write("budget: {epochs: 9}", "budget: {epochs: 9, total_epochs: 20}")
    assert sweep_spec(path, "teacher").budget.total_epochs == 20
    path.write_text(path.read_text().replace("{epochs: 5}", "{epochs: 5, total_epochs: null}"))
    assert sweep_spec(path, "student").budget.total_epochs is None


def test_all_stages_stand_in_one_experiment(write: Write) -> None:
    previews = parse_chain(
        write("  counts:", "  other:\n    method: supervised\n    data: {store: stores/x}\n  counts:")
    ).previews
    assert {spec.tracking.experiment for spec in previews.values()} == {"tiny"}
    named = write("seed: 7", "seed: 7\ntracking: {experiment: mine}")
    assert {spec.tracking.experiment for spec in parse_chain(named).previews.values()} == {"mine"}


def test_a_stage_takes_over_the_best_trials_method_and_parameters_but_what_it_gives_itself(write: Write) -> None:
    chain = parse_chain(write())
    student = chain.stage("student")
    base = Base("supervised", {"model": "cnn", "channels": 16, "depth": 3, "lr": 5e-3, "dropout": 0.25, "epochs": 9})
    spec = chain.spec(student, lambda reference: Path("/x") / reference.artefact, base)
    assert isinstance(spec, Spec)
    assert spec.space.fixed == {"model": "cnn", "channels": 16, "depth": 3, "lr": 1e-3, "weights": "/x/best.weights"}
    assert spec.flat_params({})["epochs"] == 5


def test_what_depends_on_a_changed_parameter_is_not_taken_over(write: Write) -> None:
    path = write("{lr: 1e-3, weights: {from: teacher.best.weights}}", "{model: xresnet1d18, lr: {uniform: [0.1, 0.2]}}")
    student = sweep_spec(path, "student")
    assert student.space.fixed == {"model": "xresnet1d18"}
    assert [parameter.name for parameter in student.space.parameters] == ["lr"]


def test_references_are_found_inside_a_choice(write: Write) -> None:
    path = write("weights: {from: teacher.best.weights}", "weights: {choice: [null, {from: teacher.best.weights}]}")
    chain = parse_chain(path)
    assert chain.stage("student").references == (
        Reference(("params", "weights", "choice", 1), "teacher", "best.weights"),
    )


def test_stages_run_in_the_order_of_the_file_but_for_those_that_wait(write: Write) -> None:
    first = "stages:\n  early:\n    from: student\n"
    assert [stage.name for stage in parse_chain(write("stages:\n", first)).stages] == [
        "teacher", "counts", "student", "early",
    ]  # fmt: skip


def test_a_step_with_verbs_runs_at_every_point(write: Write) -> None:
    counts = parse_chain(write()).previews["counts"]
    assert isinstance(counts, StepSpec)
    assert counts.points == [{"n_files": 2}, {"n_files": 3}]
    assert len({counts.point_seed(number) for number in range(2)}) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weights: {from: teacher.best.w", "weights: {from: teecher.best.w",
         ":17: stages.student.params.weights: no stage 'teecher'; there are teacher, counts, student; did you mean "
         "'teacher'?"),
        ("weights: {from: teacher.best.weights}}\n    budget", "weights: {from: teacher.best.weigths}}\n    budget",
         ":17: stages.student.params.weights: stage teacher leaves no 'best.weigths', but best, best.weights, "
         "best.onnx, best.config, leaderboard; did you mean 'best.weights'?"),
        ("weights: {from: teacher.best.weights}}\n    budget", "weights: {from: counts.lables}}\n    budget",
         ":17: stages.student.params.weights: stage counts leaves no 'lables', but labels; did you mean 'labels'?"),
        ("weights: {from: teacher.best.weights}}\n    budget", "weights: {from: teacher}}\n    budget",
         ":17: stages.student.params.weights: must be {from: STAGE.ARTEFACT} alone; got {'from': 'teacher'}"),
        ("lr: {loguniform: [1e-4, 1e-2]}}", "lr: 1e-3, weights: {from: student.best.weights}}",
         ":9: stages.teacher.params.weights: stages wait for one another: teacher, counts, student; break the circle"),
        ("from: teacher.best\n", "from: counts\n", ":16: stages.student.from: counts is a data step, which has no best "
         "trial"),
        ("from: teacher.best\n", "from: teacher.best.weights\n", ":16: stages.student.from: takes a stage's best "
         "trial, `from: teacher.best`; artefacts stand in params; got 'teacher.best.weights'"),
        ("    from: teacher.best\n", "", ":15: stages.student: needs a method, a step, or from: STAGE.best; got none "
         "of them"),
        ("channels: 8", "chanels: 8", ":9: stages.teacher.params.chanels: supervised has no parameter of that name; "
         "did you mean 'channels'?"),
        ("{epochs: 5}", "{epochs: 0}", ":18: stages.student.budget.epochs: must be greater than or equal to 1; got 0"),
        ("budget: {epochs: 9}", "budget: {epochs: nine}",
         ":5: budget.epochs: must be a valid integer; got 'nine' (of stage teacher)"),
        ("step: counting", "step: countin", ":12: stages.counts.step: must be one of counting; got 'countin'; did you "
         "mean 'counting'?"),
        ("mode: min}", "mode: min}\n    budget: {epochs: 1}",
         ":15: stages.counts.budget: has no meaning for a data step, which takes seed, data, step, params, select"),
        ("select: {metric: total, mode: min}", "seed: 3",
         ":11: stages.counts.select: is needed where params have a verb; give a metric among total and its mode"),
        ("metric: total", "metric: totl", ":14: stages.counts.select.metric: must be one of total; got 'totl'; did you "
         "mean 'total'?"),
        ("n_files: {choice: [2, 3]}", "n_files: {choice: [2, 0]}",
         ":13: stages.counts.params.n_files: must be greater than or equal to 1; got 0"),
        ("n_files: {choice: [2, 3]}", "n_file: 2",
         ":13: stages.counts.params.n_file: unknown key; did you mean 'n_files'?"),
        ("seed: 7", "method: supervised", ":2: method: stands in each stage of a chain, stages.NAME.method"),
        ("seed: 7", "sead: 7", ":2: sead: unknown key; did you mean 'seed'?"),
        ("    budget: {trials: 4}", "    bugdet: {trials: 4}",
         ":10: stages.teacher.bugdet: unknown key; did you mean 'budget'?"),
        ("    budget: {trials: 4}", "    tracking: {}",
         ":10: stages.teacher.tracking: stands outside the stages alone: a chain is one tree of runs"),
        ("  teacher:\n", "  tea.cher:\n", ":7: stages.tea.cher: a stage's name is of letters, digits, _ and -, and not "
         "lock; got 'tea.cher'"),
    ],
)  # fmt: skip
def test_a_fault_is_named_before_anything_starts(write: Write, old: str, new: str, message: str) -> None:
    path = write(old, new)
    with pytest.raises(SpecError) as caught:
        parse_chain(path)
    assert str(caught.value) == f"{path}{message}"


def test_overrides_reach_into_stages(write: Write) -> None:
    overrides = ["stages.student.from=null", "stages.student.method=supervised", "stages.student.params.weights=x.st"]
    chain = parse_chain(write(), overrides)
    assert chain.stage("student").needs == []
    student: Any = chain.previews["student"]
    assert student.space.fixed == {"lr": 1e-3, "weights": "x.st"}


def test_an_unknown_stage_of_the_command_line_is_named(write: Write) -> None:
    with pytest.raises(
        ValueError, match=r"has no stage 'techer'; it has teacher, counts, student; did you mean 'teach"
    ):
        parse_chain(write()).stage("techer")
