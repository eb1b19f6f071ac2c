"""The worked examples of the documentation work."""

from __future__ import annotations

import re
import shlex
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from platform import ingest, sweep
from platform.chains.stages import parse_chain
from platform.specs.spec import Spec, parse_spec
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.candidates.blocks import pool
from trainables.candidates.candidate import Candidate, Sizes
from trainables.data_steps import DATA_STEPS
from trainables.method import Method
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx
from trainables.plain_trial import PlainTrial

DOCS = Path(__file__).parent.parent / "docs"
MAINS = {"platform.ingest": ingest.main, "platform.sweep": sweep.main}


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language; without one: shell commands."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    every = re.findall(r"^```(\w*)\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)
    return [code for name, code in every if name == language]


def run(command: str) -> None:
    python, _, module, *arguments = shlex.split(command)
    assert python == "python"
    assert MAINS[module](arguments) == 0, command


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(600)
def test_own_recordings_go_in_and_a_sweep_runs_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (script,), (spec,) = blocks("own_data.md", "python"), blocks("own_data.md", "yaml")
    exec(script, {})
    Path("mine.yaml").write_text(spec, encoding="utf-8")
    for commands in blocks("own_data.md", ""):
        for command in commands.splitlines():
            run(command)
    assert (tmp_path / "runs" / "mine-001" / "best" / "model.onnx").exists()


def test_an_own_method_trains_and_goes_to_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = blocks("own_method.md", "python")
    module = types.ModuleType("trainables.spread")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # pydantic resolves annotations there
    exec(source, module.__dict__)
    method: Method = module.SPREAD
    config = method.parse_config({"epochs": 2, "batch_size": 16})
    dataset, trial = tiny_dataset("binary"), PlainTrial(3)
    method.train(config, dataset, trial)
    assert set(trial.reports) == {1, 2}
    assert set(trial.reports[1]) == method.reports("binary")
    model = method.build_model(config, dataset.signal, dataset.label_set)
    assert export_onnx(model, dataset.signal, tmp_path / "model.onnx") < 1e-5


def from_atml(language: str) -> str:
    text = (DOCS / "from" / "atml.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^```{language}\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)
    return str(code)


def test_the_default_run_of_atml_has_its_points() -> None:
    """24 pairs of candidate and learning rate, and 25 widths."""
    chain = YAML(typ="safe").load(from_atml("yaml"))
    stages, shared = chain.pop("stages"), chain
    specs = [Spec.model_validate({**shared, **stage, "search": _merged(shared, stage)}) for stage in stages.values()]
    phase1, phase2 = specs
    assert len(list(phase1.space.grid())) == 3 * 8
    assert len(list(phase2.space.grid())) == 25
    for spec in specs:
        spec.check_quantities("binary")


def _merged(shared: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    return {**shared["search"], **stage.get("search", {})}


def test_an_own_candidate_is_a_class() -> None:
    scope: dict[str, Any] = {"Candidate": Candidate, "Sizes": Sizes, "Iterable": Iterable, "nn": nn, "pool": pool}
    exec(from_atml("python"), scope)
    own = scope["TwoConvolutions"]
    network = own(Sizes(1, 1250, 1, own.channels, own.fc_width, 0.5))
    assert network(torch.zeros(2, 1, 1250)).shape == (2, 1)


def parameter_names(page: Path) -> list[str]:
    """Return the keys of a spec that a page for old users names."""
    return re.findall(r"`((?:params|data|search|budget|resources)\.[a-z_]+)`", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", sorted((DOCS / "from").glob("*.md")), ids=lambda page: page.stem)
def test_the_keys_that_old_users_are_pointed_to_exist(page: Path) -> None:
    sections = {name: field.annotation for name, field in Spec.model_fields.items()}
    names = parameter_names(page)
    assert names
    for name in names:
        section, key = name.split(".")
        models = [method.config for method in METHODS.values()] if section == "params" else [sections[section]]
        assert any(key in model.model_fields for model in models), name


def test_the_default_run_of_enecg_is_a_chain_that_ends_in_its_ensemble(tmp_path: Path) -> None:
    text = (DOCS / "from" / "enecg.md").read_text(encoding="utf-8")
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "enecg.yaml").write_text(yaml, encoding="utf-8")
    ensemble = parse_chain(tmp_path / "enecg.yaml").previews["ensemble"]
    assert isinstance(ensemble, Spec)
    config = ensemble.method_config({})
    assert sorted(config.expert_names) == ["dlinear", "ecg_fm", "moment", "tempo", "timesnet"]
    assert (config.mixing, config.gate_leads, config.gate_width, config.top_k) == ("gate", ("II",), 256, None)
    assert (config.head_depth, config.head_width) == (3, 256)
    assert (config.lora, config.rank, config.alpha) == ("both", 8, 32)
    assert (config.lr, config.batch_size, config.epochs, ensemble.seed) == (1e-4, 16, 5, 42)
    assert ensemble.folds is not None and ensemble.folds.k == 3


def test_the_default_run_of_adagrad_fusion_is_two_specs(tmp_path: Path) -> None:
    text = (DOCS / "from" / "adagrad_fusion.md").read_text(encoding="utf-8")
    teacher, student = re.findall(r"^```yaml\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)
    configs = {}
    for name, yaml in {"teacher": teacher, "student": student}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml, encoding="utf-8")
        spec = parse_spec(tmp_path / f"{name}.yaml")
        assert not spec.space.parameters
        assert spec.data.folds is not None and spec.data.k_fold is not None
        shares = [len(folds) / spec.data.k_fold.k for folds in spec.data.folds.by_role().values()]
        assert shares == [0.08, 0.02, 0.90]
        configs[name] = spec.method_config({})
    assert (configs["teacher"].rank, configs["teacher"].bp_batch, configs["teacher"].zo_eps) == (16, 8, 1e-3)
    assert (configs["student"].temperature, configs["student"].soft_weight, configs["student"].hard_weight) == (1, 1, 1)
    assert {config.cutmix_alpha for config in configs.values()} == {0.75}


def test_the_default_run_of_hubert_ecg_is_a_chain_with_the_guides_values(tmp_path: Path) -> None:
    text = (DOCS / "from" / "hubert_ecg.md").read_text(encoding="utf-8")
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "guide.yaml").write_text(yaml, encoding="utf-8")
    stages = {stage.name: stage.values for stage in parse_chain(tmp_path / "guide.yaml").stages}
    assert list(stages) == ["features", "clusters", "pretrain", "finetune"]
    steps = {name: DATA_STEPS[stages[name]["step"]].config for name in ("features", "clusters")}
    assert steps["features"].model_validate(stages["features"]["params"]).feature_type == "mfcc"
    configs = {}
    for name in ("pretrain", "finetune"):
        params = {**stages[name]["params"], "weights": "random", "codebooks": "codebook"}
        method = METHODS[stages[name]["method"]]
        configs[name] = method.parse_config({key: params[key] for key in params if key in method.config.model_fields})
    assert (configs["pretrain"].mask_prob, configs["pretrain"].num_clusters, configs["pretrain"].lr) == (
        0.15,
        100,
        1e-4,
    )
    assert (configs["pretrain"].epochs, configs["pretrain"].batch_size) == (100, 32)
    finetune = configs["finetune"]
    assert (finetune.epochs, finetune.batch_size, finetune.lr, finetune.freeze_encoder) == (50, 16, 1e-5, False)
