from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data.dataset import LabelSet, Signal
from platform.chains.stages import is_chain
from platform.specs.error import SpecError
from platform.specs.file import MAX_BYTES
from platform.specs.sections import Constraint
from platform.specs.spec import Spec, parse_spec
from tests.platform.small_spec import make_spec, search
from trainables.methods import METHODS

ROOT = Path(__file__).parents[3]
SPACES = sorted(path for path in (ROOT / "searchspaces").glob("*.yaml") if not is_chain(path))

TEXT = """\
name: tiny
seed: 3
method: supervised
data:
  store: stores/tiny
  synthetic: {task: beats, n_records: 200}
  preprocess:
    - bandpass: {low_hz: 0.5, high_hz: 40}
    - zscore: {per: lead}
params:
  model: {choice: [xresnet1d18, cnn]}
  lr:
    loguniform: [1e-4, 1e-2]
  channels: {choice: [16, 32], when: {model: cnn}}
search: {metric: val/auroc, mode: max, try_first: [{lr: 1e-3}]}
constraints: [onnx_bytes <= 4e6]
budget: {trials: 30, epochs: 27}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str = TEXT, old: str = "", new: str = "") -> Path:
        assert old in text
        path = tmp_path / "tiny.yaml"
        path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return path

    return write_text


# ------------------------------------------------------------------ the files that ship


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_search_space_is_valid(path: Path) -> None:
    assert parse_spec(path).name == path.stem


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_shipped_search_space_says_its_command_first(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    assert f"python -m platform.sweep searchspaces/{path.name}" in comment


def test_the_quickstart_is_resolved() -> None:
    spec = parse_spec(ROOT / "searchspaces/quickstart.yaml")
    assert spec.search.grace_period == max(1, spec.budget.epochs // 9)
    assert spec.search.n_startup_trials == min(10, spec.budget.trials // 3)
    assert spec.search.group is True
    assert spec.tracking.experiment == "synthetic_rhythm"
    assert spec.constraints == ("onnx_bytes <= 4000000",)
    assert [objective.metric for objective in spec.search.objectives] == ["val/auroc"]


# ------------------------------------------------------------------ YAML


def test_numbers_are_those_of_yaml_1_2(write: Write) -> None:
    spec = parse_spec(write(TEXT, "seed: 3", "seed: 0o17"), ["params.lr=1e-3", "search.try_first=[]"])
    assert spec.seed == 15
    assert spec.space.fixed["lr"] == 0.001


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("seed: 3", "seed: [3", r"tiny.yaml:3: not valid YAML: "),
        ("seed: 3", "seed: 3\nseed: 4", r'tiny.yaml:3: not valid YAML: found duplicate key "seed"'),
        ("seed: 3", "seed: !!python/object:os.system {}", r"tiny.yaml:2: not valid YAML: could not determine"),
        ("seed: 3", "seed: \x00", r"tiny.yaml: not valid YAML"),
        ("seed: 3", "seed: *x", r"tiny.yaml:2: not valid YAML: found undefined alias"),
        ("seed: 3", f"seed: {'[' * 60}{']' * 60}", r"tiny.yaml:2: a spec nests at most 50 levels"),
        ("seed: 3", f"seed: [{'1,' * 30_000}]", r"tiny.yaml:2: a spec has at most 20,000 keys and values"),
        ("seed: 3", "seed: &x [*x]", r"tiny.yaml:2: (aliases nest more than 50 levels|not valid YAML)"),
    ],
)
def test_a_file_that_is_not_good_yaml_is_refused_with_its_line(write: Write, old: str, new: str, rule: str) -> None:
    with pytest.raises(SpecError, match=rule):
        parse_spec(write(TEXT, old, new))


def test_aliases_of_aliases_do_not_explode(write: Write) -> None:
    lines = ["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(SpecError, match="aliases make more than 20,000 keys and values"):
        parse_spec(write("\n".join(lines)))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"- 1\n", "a spec is a mapping of keys, but got list"),
        (b"", "a spec is a mapping of keys, but got NoneType"),
        (b"\xff\xfe", "must be UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), "a spec has at most 1,000,000 bytes, but got 1,000,001"),
    ],
)
def test_a_file_that_is_no_mapping_of_text_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=rule):
        parse_spec(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SpecError, match=r"^nowhere.yaml: no such file"):
        parse_spec("nowhere.yaml")


def test_an_override_of_what_an_alias_shares_changes_one_key_only(write: Write) -> None:
    text = TEXT.replace("{choice: [xresnet1d18, cnn]}", "&m {choice: [xresnet1d18, cnn]}")
    path = write(text, "params:", "params:\n  norm: &n {choice: [batch], when: {model: cnn}}")
    spec = parse_spec(path, ["params.norm.choice=[layer]"])
    assert spec.params["norm"]["choice"] == ["layer"]


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 3", "sed: 3", ":2: sed: unknown key; did you mean 'seed'?"),
        ("high_hz", "hihg_hz", ":8: data.preprocess[0].bandpass.hihg_hz: unknown key; did you mean 'high_hz'?"),
        ("n_records: 200", "n_records: 2", ":6: data.synthetic.n_records: must be greater than or equal to 50; got 2"),
        ("  lr:", "  lrr:", ":12: params.lrr: supervised has no parameter of that name; did you mean 'lr'?"),
        ("loguniform", "logunifrom", ":13: params.lr.logunifrom: lr is one value or one verb (uniform, loguniform, "
         "quniform, randint, lograndint, qrandint, choice); got key 'logunifrom'; did you mean 'loguniform'?"),
        ("[1e-4, 1e-2]", "[1e-2, 1e-4]", ":12: params.lr: `low <= high` must hold, but got (low=0.01, high=0.0001)"),
        ("[1e-4, 1e-2]", "[0, 1e-2]", ":12: params.lr: `low > 0` must hold on a log scale, but got (low=0.0)"),
        ("xresnet1d18, cnn", "xresnet1d19, cnn", ":11: params.model: must be 'xresnet1d18', 'xresnet1d50', "
         "'xresnet1d101', 'inception1d', 'resnet1d_wang', 'fcn_wang', 'lstm_bidir' or 'cnn'; "
         "got 'xresnet1d19'; did you mean 'xresnet1d18'?"),
        ("{model: cnn}", "{model: cn}", ":14: params.channels.when.model: can never hold: model must be one of "
         "'xresnet1d18', 'cnn'; got 'cn'"),
        ("val/auroc", "test/auroc", ":15: search.metric: the test fold is looked at once, after the search; use val/; "
         "got 'test/auroc'"),
        ("mode: max", "mode: most", ":15: search.mode: must be 'max' or 'min'; got 'most'"),
        (" mode: max,", "", ":15: search: mode is required beside metric: val/auroc; give max or min"),
        ("{lr: 1e-3}", "{lr: 1}", ":15: search.try_first[0].lr: must lie in [0.0001, 0.01], but got 1"),
        ("mode: max", "mode: max, sampler: gp", ":15: search.sampler: gp does not take conditional parameters "
         "(channels); samplers that take this: tpe, random"),
        ("<=", "<", ":16: constraints[0]: must be `name <= number` or `name >= number`, e.g. onnx_bytes <= 4e6; got "
         "'onnx_bytes < 4e6'"),
        ("trials: 30", "trials: 0", ":17: budget.trials: must be greater than or equal to 1; got 0"),
        ("trials: 30", "trials: '30'", ":17: budget.trials: must be a valid integer; got '30'"),
        (", epochs: 27", "", ":17: budget.epochs: required, but not given"),
        ("method: supervised", "method: supervize", f":3: method: must be one of {', '.join(METHODS)}; got "
         "'supervize'; did you mean 'supervised'?"),
        ("method: supervised", "stages: {}", ":3: stages: unknown key; did you mean 'targets'?"),
        ("name: tiny", "name: a/b", ":1: name: must match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'; got 'a/b'"),
    ],
)  # fmt: skip
def test_an_error_has_file_line_key_rule_value_and_nearest_name(write: Write, old: str, new: str, message: str) -> None:
    path = write(TEXT, old, new)
    with pytest.raises(SpecError) as caught:
        parse_spec(path)
    assert str(caught.value) == f"{path}{message}"


def test_an_error_in_a_nested_list_has_its_own_line(write: Write) -> None:
    path = write(TEXT, "zscore: {per: lead}", "zscore: {per: leed}")
    with pytest.raises(SpecError, match=rf"^{re.escape(str(path))}:9: data\.preprocess\[1\]\.zscore\.per: must be"):
        parse_spec(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trails=3", "--set budget.trails: budget.trails: unknown key; did you mean 'trials'?"),
        ("budgets.trials=3", "--set budgets.trials: budgets: unknown key; did you mean 'budget'?"),
        ("budget.trials", "--set budget.trials: must be KEY=VALUE with a dotted key, e.g. budget.trials=10"),
        ("budget..trials=1", "--set budget..trials=1: must be KEY=VALUE with a dotted key, e.g. budget.trials=10"),
        ("seed.x=1", "--set seed.x: seed is no section, but 3; set seed as a whole"),
        ("params.lr=[", "--set params.lr:1: not valid YAML: "),
        ("params.lr=true", "--set params.lr: params.lr: must be a valid number; got True"),
        ("params.lr=0.005", "search.try_first[0].lr: is fixed at 0.005; leave it out"),
        ("params.dropout={uniform: [0, 2]}", "--set params.dropout: params.dropout: must be less than 1; got 2.0"),
        ("params.batch_size={uniform: [8, 16]}", "--set params.batch_size: params.batch_size: must be a valid integer"),
        ("params.epochs=28", "params.epochs: must be at most budget.epochs = 27, which the rungs are made for; got 28"),
        ("params.focal_gamma=1.5", "focal_gamma works only with loss: focal"),
        ("search.grace_period=28", "search.grace_period: must be at most budget.epochs = 27; got 28"),
        ("search.brackets=4", "search.brackets: must be at most 3, the number of rungs; got 4"),
        ("search.metric=onnx_bytes", "needs what changes with the epochs (val/...) as first objective"),
        ("search.metric=[{metric: val/auroc, mode: max}]", "search.mode: stands in every objective of the list"),
        ("resources.gpus=1.5", "resources.gpus: must be a fraction below 1, or whole; got 1.5"),
        ("budget.wall_time_s=.inf", "--set budget.wall_time_s: budget.wall_time_s: must be a finite number; got inf"),
    ],
)
def test_an_override_is_checked_like_the_file(write: Write, override: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(write(), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["grace_period", "reduction_factor", "brackets"])
def test_an_option_of_asha_is_refused_where_nothing_stops_trials(write: Write, option: str) -> None:
    with pytest.raises(SpecError, match=rf"search.{option}: has no meaning for scheduler none"):
        parse_spec(write(), ["search.scheduler=none", f"search.{option}=2"])


# ------------------------------------------------------------------ overrides


def test_overrides_take_verbs_whole_lists_and_new_sections(write: Write) -> None:
    overrides = [
        "params.lr={uniform: [0.001, 0.1]}",
        "data.preprocess=[{notch: {freq_hz: 50}}]",
        "resources.cpus=2",
        "budget.total_epochs=100",
        "search.try_first=[]",
    ]
    spec = parse_spec(write(), overrides)
    assert spec.space.parameter("lr").domain.verb == "uniform"
    assert [step.notch is not None for step in spec.data.preprocess] == [True]
    assert spec.resources.cpus == 2.0
    assert spec.budget.total_epochs == 100


def test_the_last_override_wins(write: Write) -> None:
    assert parse_spec(write(), ["seed=1", "seed=2"]).seed == 2


def test_a_point_to_try_may_repeat_a_fixed_value(write: Write) -> None:
    assert parse_spec(write(), ["params.lr=1e-3"]).search.try_first == ({},)


# ------------------------------------------------------------------ resolving


def test_a_spec_without_a_verb_is_one_plain_training_run(write: Write) -> None:
    spec = parse_spec(write(), ["params={model: cnn, channels: 16}", "search.try_first=[]"])
    assert spec.budget.trials == 1
    assert spec.method_config({}).channels == 16


def test_a_grid_is_tried_once() -> None:
    spec = make_spec({"dropout": {"choice": [0.1, 0.2]}}, search=search(sampler="grid"))
    assert spec.budget.trials == 2


def test_the_first_metric_defaults_to_the_validation_loss() -> None:
    spec = make_spec(search={"scheduler": "none"})
    assert [(o.metric, o.mode) for o in spec.search.objectives] == [("val/loss", "min")]


def test_a_list_of_metrics_is_several_objectives() -> None:
    both = [{"metric": "val/auroc", "mode": "max"}, {"metric": "onnx_bytes", "mode": "min"}]
    spec = make_spec(search=search(metric=both))
    assert [(o.metric, o.mode) for o in spec.search.objectives] == [("val/auroc", "max"), ("onnx_bytes", "min")]
    assert spec.search.multivariate is False


@pytest.mark.parametrize(("epochs", "grace_period"), [(1, 1), (8, 1), (9, 1), (27, 3), (100, 11)])
def test_the_grace_period_is_a_ninth_of_the_longest_trial(epochs: int, grace_period: int) -> None:
    spec = make_spec(search={"metric": "val/auroc", "mode": "max"}, budget={"trials": 9, "epochs": epochs})
    assert spec.search.grace_period == grace_period == spec.search.resolved_grace_period(epochs)


def test_the_budgets_epochs_reach_the_method_unless_it_has_its_own() -> None:
    assert make_spec().method_config({"lr": 1e-3}).epochs == 9
    assert make_spec({"epochs": {"randint": [1, 9]}}).method_config({"epochs": 4}).epochs == 4


def test_flat_parameters_are_complete_and_make_the_same_configuration() -> None:
    spec = make_spec({"model": "cnn", "channels": {"choice": [8, [8, 16, 32, 64]]}})
    for channels in (8, [8, 16, 32, 64]):
        flat = spec.flat_params({"channels": channels})
        config = spec.method_config({"channels": channels})
        assert flat["channels"] == channels
        assert set(flat) == set(type(config).model_fields)
        assert spec.method_config(flat) == config


def test_values_that_the_method_refuses_together_are_found_before_the_sweep() -> None:
    with pytest.raises(ValidationError, match="channels works only with model: cnn"):
        make_spec({"model": {"choice": ["cnn", "xresnet1d18"]}, "channels": {"choice": [8, 16]}})


@pytest.mark.parametrize(
    ("sections", "rule"),
    [
        ({"resources": {"workers": 2}}, "needs resources.workers: 0; got 2"),
        ({"ensemble": {"top": 2}}, "leave out folds or ensemble"),
    ],
)
def test_folds_are_refused_where_they_would_train_on_what_selects_or_in_several_processes(
    sections: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValidationError, match=rule):
        make_spec(folds={"k": 3}, **sections)


def test_under_folds_a_method_trains_as_many_models() -> None:
    assert make_spec().training is METHODS["supervised"]
    spec = make_spec(folds={"k": 3})
    assert spec.training.name == "supervised" and spec.training is not METHODS["supervised"]


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(make_spec(), "seed", 4)  # noqa: B010


# ------------------------------------------------------------------ constraints


@pytest.mark.parametrize(
    ("text", "value", "excess"),
    [
        ("onnx_bytes <= 4e6", 5e6, 1e6),
        ("onnx_bytes<=4e6", 4e6, 0.0),
        ("val/recall >= 0.9", 0.8, 0.1),
        ("val/recall >= 0.9", 0.95, -0.05),
        ("val/loss <= -1", -2.0, -1.0),
    ],
)
def test_excess_is_positive_where_a_bound_is_broken(text: str, value: float, excess: float) -> None:
    constraint = Constraint.parse(text)
    assert constraint.excess({constraint.quantity: value, "other": 9.0}) == pytest.approx(excess)


@pytest.mark.parametrize("text", ["a < 3", "a <= b", "a <= nan", "a <= inf", "<= 3", "a == 3", "a <= 3 <= 4", ""])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be `name <= number`"):
        Constraint.parse(text)


def test_a_criterion_of_several_metrics_may_be_searched_and_bounded() -> None:
    name = "val/min_of-f1-accuracy-precision-recall"
    criterion = "min_of(f1, accuracy, precision, recall)"
    spec = make_spec(search={"metric": criterion, "mode": "max"}, constraints=[f"{criterion} >= 0.6"])
    assert [objective.metric for objective in spec.search.objectives] == [name]
    assert spec.constraints == (f"{name} >= 0.6",)
    assert spec.criteria == (name,)
    spec.check_quantities("binary")
    with pytest.raises(ValueError, match="reports no 'val/f1' where the labels are regression"):
        spec.check_quantities("regression")


def test_a_quantity_that_no_trial_reports_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no trial reports 'onnx_byte'; did you mean 'onnx_bytes'"):
        Constraint.parse("onnx_byte <= 3").excess({"onnx_bytes": 1.0})


@given(quantity=st.sampled_from(["onnx_bytes", "val/auroc"]), bound=st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_constraint_is_stable(quantity: str, bound: float) -> None:
    constraint = Constraint(quantity=quantity, direction="<=", bound=bound)
    assert Constraint.parse(constraint.text).text == constraint.text


# ------------------------------------------------------------------ round trip


def specs() -> st.SearchStrategy[dict[str, Any]]:
    rate = st.floats(1e-6, 1, allow_nan=False)
    lr = st.one_of(rate, st.tuples(rate, rate).map(lambda p: {"loguniform": sorted(p)}))
    width = st.integers(1, 64)
    channels = st.one_of(width, st.lists(width, min_size=4, max_size=4))
    params = st.fixed_dictionaries(
        {"lr": lr, "model": st.just({"choice": ["cnn", "inception1d"]})},
        optional={
            "dropout": st.sampled_from([0.1, {"uniform": [0, 0.5]}, {"quniform": [0, 0.5, 0.25]}]),
            "batch_size": st.one_of(width, st.tuples(width, width).map(lambda p: {"randint": sorted(p)})),
            "clip_norm": st.none() | rate,
            "channels": st.lists(channels, min_size=1, max_size=3, unique_by=str).map(
                lambda values: {"choice": values, "when": {"model": "cnn"}}
            ),
        },
    )
    label = st.none() | st.text(min_size=1)
    data = st.fixed_dictionaries(
        {"store": st.text(min_size=1)},
        optional={
            "labels": label,
            "preprocess": st.sampled_from([[], [{"zscore": {"per": "lead"}}]]),
            "memory_bytes": st.none() | st.integers(0, 10**12),
        },
    )
    budget = st.fixed_dictionaries(
        {"epochs": st.integers(1, 300)},
        optional={"trials": st.integers(4, 500), "wall_time_s": st.floats(1e-3, 1e9), "disk_bytes": st.floats(1, 1e15)},
    )
    scheduler = st.sampled_from(["asha", "median", "none"])
    return st.fixed_dictionaries(
        {
            "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
            "seed": st.integers(0, 2**32 - 1),
            "method": st.just("supervised"),
            "data": data,
            "params": params,
            "search": scheduler.map(lambda name: {"metric": "val/auroc", "mode": "max", "scheduler": name}),
            "budget": budget,
        },
        optional={
            "constraints": st.lists(st.floats(0, 1e9).map(lambda x: f"onnx_bytes <= {x!r}"), max_size=2),
            "tracking": st.fixed_dictionaries({"experiment": st.text(min_size=1)}),
        },
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(values=specs())
def test_the_resolved_yaml_reads_back_as_the_same_spec(tmp_path: Path, values: dict[str, Any]) -> None:
    spec = Spec.model_validate(values)
    path = tmp_path / "resolved.yaml"
    path.write_text(spec.to_yaml(), encoding="utf-8")
    again = parse_spec(path)
    assert again == spec
    assert again.to_yaml() == spec.to_yaml()


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\ufeff", "\t", "\x7f"])
def test_control_characters_in_text_survive_the_round_trip(tmp_path: Path, text: str) -> None:
    values = {"method": "supervised", "data": {"store": "s"}, "params": {"lr": 1e-3}, "tracking": {"experiment": text}}
    spec = make_spec(**values)
    path = tmp_path / "resolved.yaml"
    path.write_text(spec.to_yaml(), encoding="utf-8")
    assert parse_spec(path).tracking.experiment == text


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_shipped_search_spaces_survive_the_round_trip(tmp_path: Path, path: Path) -> None:
    spec = parse_spec(path)
    copy = tmp_path / path.name
    copy.write_text(spec.to_yaml(), encoding="utf-8")
    assert parse_spec(copy) == spec


PRETRAINING = {"method": "hubert_ecg_pretrain", "params": {}, "search": search(metric="val/loss", mode="min")}


@pytest.mark.parametrize(
    ("sections", "task", "message"),
    [
        ({}, "unlabelled", "supervised learns from labels: name a label set in data.labels, instead of none"),
        (PRETRAINING, "binary", "hubert_ecg_pretrain looks at no label: set data.labels: none"),
        ({**PRETRAINING, "folds": {"k": 3}}, "unlabelled", "folds: the mean of k encoders"),
    ],
)
def test_a_method_refuses_labels_that_it_does_not_learn_from(sections: Any, task: Any, message: str) -> None:
    spec = make_spec(**{"params": None, **sections})
    with pytest.raises(ValueError, match=re.escape(message)):
        spec.check_quantities(task)


def test_pretraining_takes_a_store_without_labels() -> None:
    make_spec(**PRETRAINING).check_quantities("unlabelled")


def test_what_the_method_knows_to_be_of_no_use_is_refused_before_a_sweep_starts() -> None:
    row, labels = Signal(("II",), 100.0, 600), LabelSet("beats", "binary", ("abnormal",))
    make_spec({"resample_factor": {"choice": [8, 16]}}, method="peft").check_method(row, labels)
    with pytest.raises(ValueError, match=r"makes 1 token of 600 timesteps.*resample_factor: 16 makes 29 tokens"):
        make_spec({"resample_factor": {"choice": [1, 16]}}, method="peft").check_method(row, labels)
    make_spec().check_method(row, labels)
