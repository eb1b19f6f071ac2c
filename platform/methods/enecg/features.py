"""Before the trials of a sweep of `method: enecg`: its experts' features of all records, through Ray Data.

Trials find them in the cache, so that no two of them wait for one another.
"""

from __future__ import annotations

import time

import numpy as np
import ray
import torch

from data.dataset import Split
from data.sharing import SharedDataset
from platform.specs.spec import Spec
from trainables.enecg import EnecgConfig, frozen_expert
from trainables.expert_features import expert_function
from trainables.expert_pass import ExpertPass, Role, Tasks
from trainables.experts.table import AnyExpertConfig
from trainables.features import FeatureCache

N_DRAWN = 64  # configurations of a space that are looked at
MOST_CPU_TASKS = 4  # each has its own copy of an expert, and some CPUs


def compute_features(spec: Spec, dataset: SharedDataset) -> None:
    """Compute what the trials of `spec` will ask the cache for, and lacks there; says what it took."""
    tasks = _tasks(spec)
    for config in _keeping_configs(spec):
        for expert in _experts(spec, config):
            _compute(expert, config.precision, dataset, tasks)


def _keeping_configs(spec: Spec) -> list[EnecgConfig]:
    """Return a configuration for each precision with which trials may keep features."""
    rng = np.random.default_rng(spec.seed)
    drawn = [spec.method_config(spec.space.sample(rng)) for _ in range(N_DRAWN if spec.space.parameters else 1)]
    keeping = {config.precision: config for config in drawn if config.keeps_features}
    return list(keeping.values())


def _experts(spec: Spec, config: EnecgConfig) -> list[AnyExpertConfig]:
    """Return every expert that a trial may have, each once."""
    if "experts" not in spec.space.names:
        return list(config.experts)
    domain = spec.space.parameter("experts").domain
    lists = [domain.value_at(index) for index in range(domain.n_values or 0)]
    parsed = [EnecgConfig.model_validate({"experts": experts}).experts for experts in lists]
    return list(dict.fromkeys(expert for experts in parsed for expert in experts))


def _tasks(spec: Spec) -> Tasks:
    resources = ray.cluster_resources()
    if spec.resources.gpus:
        return Tasks(int(resources["GPU"]), cpus=1, gpus=1)
    cpus = int(resources["CPU"])
    number = min(cpus, MOST_CPU_TASKS)
    return Tasks(number, cpus=cpus // number, gpus=0)


def _compute(config: AnyExpertConfig, precision: str, dataset: SharedDataset, tasks: Tasks) -> None:
    opened = dataset.open()
    assert opened.source is not None
    cache, device = FeatureCache.beside(opened.source), torch.device("cuda" if tasks.gpus else "cpu")
    function = expert_function(config.kind, frozen_expert(config, dataset.signal), precision, device)
    start_s, n_computed = time.perf_counter(), 0
    splits: dict[Role, Split] = {"train": opened.train, "val": opened.val}
    for role, split in splits.items():
        n_computed += cache.n_lacking(function, split, opened.source)
        cache.get(function, split, opened.source, ExpertPass(config, precision, dataset, role, tasks))
    if n_computed:
        print(f"features of {config.kind}: {n_computed} records in {time.perf_counter() - start_s:.1f} s")
