"""What bundled weights add over random ones: `python -m benchmarks.bundled`.

Test AUROC (macro) of `method: peft` on each backbone that this repository bundles, from bundled and from random
weights, tuned in several ways, and of `method: hubert_ecg` from HuBERT-ECG's. Every run is a plain run through the
shared trainer, as a trial is; its model is that of the epoch with the best AUROC on validation. Runs differ in their
seed, and random backbones do too. `method: peft` interpolates records to the rate that the backbone was pretrained at;
`method: hubert_ecg` wants them at that rate, by a step `resample` in --data, and so do records of a higher rate.

A figure has a value for each seed; its 95 % interval is a bootstrap over the test patients of the mean over the seeds,
a difference's a paired one (`trainables.paired_bootstrap`). By default on synthetic single-lead segments with and
without atrial fibrillation, of which no backbone has seen any; with --store on any store.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.config import DataConfig
from data.dataset import Dataset
from data.loading import load, make_store
from data.store import read_manifest
from platform.bundle import BundledCard
from trainables.bootstrap import percentile_interval, resample
from trainables.config import TrainConfig
from trainables.evaluation import evaluate
from trainables.method import Method
from trainables.methods import METHODS
from trainables.paired_bootstrap import paired_difference
from trainables.plain_trial import PlainTrial
from trainables.trial import State
from trainables.weight_files import BUNDLED

Weights = Literal["bundled", "random"]
Floats = NDArray[np.float64]

SIZE: Final = "tiny"
BACKBONES: Final = ("ecg_fm", "hubert", "wav2vec2")
TUNINGS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "linear_probe": {"head_lr": 1e-2},
        "lora": {"rank": 8, "alpha": 16, "target_modules": "all", "lr": 3e-3, "head_lr": 1e-2},
        "houlsby": {"bottleneck": 16, "lr": 3e-3, "head_lr": 1e-2},
        "full": {"lr": 1e-3, "head_lr": 3e-3},
        "hubert_ecg": {"lr": 1e-3, "class_weights": "balanced", "schedule": "linear"},
    }
)
OWN_METHOD: Final = "hubert_ecg"  # the tuning that is no way of `method: peft`: as hubert_ecg_finetune.yaml begins
PROBE: Final = "linear_probe"
DRAW_SEED: Final = 0  # of the test patients: the same resamples for every run


@dataclass(frozen=True)
class Cell:
    """One backbone, tuned in one way from one kind of weights."""

    backbone: str
    tuning: str
    weights: Weights


@dataclass(frozen=True)
class Score:
    """Test AUROC of a cell's runs: on the test records, and on resamples of them."""

    auroc_S: Floats
    resampled_SR: Floats


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    torch.set_num_threads(1)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="bundled-") as folder:
        dataset = load(data_config(options, Path(folder)), ("train", "val", "test"))
        scores = {cell: measure(cell, dataset, options) for cell in _cells(options)}
    added = tuple(_added(scores, backbone, tuning) for backbone in options.backbones for tuning in options.tunings)
    probes = [figure for figure in added if figure.name.startswith(tuple(f"{each}, {PROBE}" for each in BACKBONES))]
    beyond = tuple(_beyond_probe(scores, options)) if PROBE in options.tunings else ()
    assert dataset.test is not None
    title = (
        f"{dataset.label_set.name}: {dataset.train.n_records:,} training and {dataset.test.n_records:,} test records, "
        f"{options.epochs} epochs, {options.seeds} seeds"
    )
    figures = (*_aurocs(scores), *added, *beyond)
    return conclude(Result(title, machine, figures, tuple(Bar(probe, ">=", 0.0) for probe in probes)), options)


def data_config(options: argparse.Namespace, folder: Path) -> DataConfig:
    """Return the store that was asked for, or make the synthetic one."""
    if options.store is not None:
        n_timesteps = round(options.duration_s * read_manifest(options.store).fs_hz)
        steps = [{"crop_or_pad": {"n_timesteps": n_timesteps}}, *options.data.get("preprocess", ())]
        values = {"store": str(options.store), "labels": options.labels, "finetune_label_ratio": options.share}
        return DataConfig.model_validate({**values, **options.data, "preprocess": steps})
    synthetic = {"task": "af_segments", "n_records": options.records}
    values = {"store": str(folder / "af_segments"), "synthetic": synthetic, **options.data}
    config = DataConfig.model_validate(values)
    make_store(config)
    return config.model_copy(update={"finetune_label_ratio": options.share})


def measure(cell: Cell, dataset: Dataset, options: argparse.Namespace) -> Score:
    """Train with every seed, and score each model on the test records."""
    runs = [_run(cell, dataset, seed, options) for seed in range(options.seeds)]
    print(f"{cell.backbone} {cell.tuning} {cell.weights}: {np.mean([auroc for auroc, _ in runs]):.4f}", file=sys.stderr)
    return Score(np.array([auroc for auroc, _ in runs]), np.stack([auroc_R for _, auroc_R in runs]))


def _run(cell: Cell, dataset: Dataset, seed: int, options: argparse.Namespace) -> tuple[float, Floats]:
    method, config = configure(cell, dataset.signal.fs_hz, seed, options)
    trial = _BestEpoch(seed)
    method.train(config, dataset, trial)
    model = method.build_model(config, dataset.signal, dataset.label_set)
    model.load_state_dict(trial.best)
    assert dataset.test is not None
    thresholds_K = np.full(dataset.label_set.n_outputs, 0.5)  # AUROC has none
    evaluation = evaluate(method.finish(model.eval()), dataset.test, config, dataset.label_set, thresholds_K)
    groups_N = dataset.test.patient_ids
    resampled = resample(evaluation, dataset.label_set, config.threshold_beta, groups_N, DRAW_SEED)
    return evaluation.scores.macro["auroc"], resampled.macro["auroc"]


def configure(cell: Cell, fs_hz: float, seed: int, options: argparse.Namespace) -> tuple[Method, TrainConfig]:
    """Return a run's method and its configuration."""
    is_own = cell.tuning == OWN_METHOD  # whose random weights follow from the trial's seed
    method = METHODS[OWN_METHOD if is_own else "peft"]
    params = {
        "size": SIZE,
        "weights": cell.weights,
        "epochs": options.epochs,
        "batch_size": 16,  # few records make few steps
        **TUNINGS[cell.tuning],
    }
    return method, method.parse_config(params if is_own else {**params, **_peft_params(cell, fs_hz, seed, options)})


def _peft_params(cell: Cell, fs_hz: float, seed: int, options: argparse.Namespace) -> Mapping[str, Any]:
    card = BundledCard.model_validate_json((BUNDLED / f"{cell.backbone}_{SIZE}.json").read_bytes())
    if fs_hz > card.fs_hz:
        raise ValueError(
            f"records must not be above the rate of {cell.backbone}'s pretraining, {card.fs_hz:g} Hz, but these have "
            f"{fs_hz:g} Hz; resample them in the preprocess of --data"
        )
    return {
        "backbone": cell.backbone,
        "weights_seed": seed if cell.weights == "random" else 0,
        "resample_factor": max(options.resample_factor, card.fs_hz / fs_hz),
        "tuning": cell.tuning,
    }


class _BestEpoch(PlainTrial):
    """Keeps the model of the epoch with the best AUROC on validation."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.best: dict[str, torch.Tensor] = {}
        self._auroc = -np.inf

    def report(self, epoch: int, metrics: Mapping[str, float], state: Callable[[], State]) -> None:
        super().report(epoch, metrics, state)
        if metrics["val/auroc"] > self._auroc:
            self._auroc = metrics["val/auroc"]
            self.best = {name: tensor.clone() for name, tensor in state()["model"].items()}


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    kinds: tuple[Weights, ...] = ("bundled", "random")
    for backbone in options.backbones:
        for tuning in options.tunings:
            yield from (Cell(backbone, tuning, weights) for weights in kinds)


def _aurocs(scores: Mapping[Cell, Score]) -> Iterator[Figure]:
    for cell, score in scores.items():
        interval = percentile_interval(score.resampled_SR.mean(axis=0))
        assert interval is not None, "a difference of two scores would have been refused"
        note = f"mean {score.auroc_S.mean():.3f}, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
        yield Figure(f"{cell.backbone}, {cell.tuning}, {cell.weights}", "AUROC", tuple(score.auroc_S.tolist()), note)


def _added(scores: Mapping[Cell, Score], backbone: str, tuning: str) -> Figure:
    random, bundled = (scores[Cell(backbone, tuning, weights)] for weights in ("random", "bundled"))
    return _difference(f"{backbone}, {tuning}, bundled - random", random, bundled)


def _beyond_probe(scores: Mapping[Cell, Score], options: argparse.Namespace) -> Iterator[Figure]:
    """Yield how far each other way lies above a linear probe, from bundled weights."""
    for backbone in options.backbones:
        probe = scores[Cell(backbone, PROBE, "bundled")]
        for tuning in options.tunings:
            if tuning != PROBE:
                other = scores[Cell(backbone, tuning, "bundled")]
                yield _difference(f"{backbone}, bundled, {tuning} - {PROBE}", probe, other)


def _difference(name: str, first: Score, other: Score) -> Figure:
    value_S = other.auroc_S - first.auroc_S
    found = paired_difference(float(value_S.mean()), first.resampled_SR.mean(axis=0), other.resampled_SR.mean(axis=0))
    verdict = ", covers zero" if found.low <= 0 <= found.high else ""
    note = f"mean {found.value:.3f}, 95 % interval {found.low:.3f} to {found.high:.3f}{verdict}"
    return Figure(name, "AUROC", tuple(value_S.tolist()), note)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bundled", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, metavar="STORE", help="tune on this store instead of synthetic records")
    parser.add_argument("--labels", metavar="SET", help="its label set, where it has several")
    parser.add_argument(
        "--data",
        type=json.loads,
        default={},
        metavar="JSON",
        help="other keys of a spec's data section; preprocess: what comes after the cut to --duration-s",
    )
    parser.add_argument("--duration-s", type=float, default=5.0, help="how much of its records is taken, s (5)")
    parser.add_argument(
        "--resample-factor", type=float, default=1.0, help="at least, for short records to have tokens (1)"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the training patients to train on (1)")
    parser.add_argument("--records", type=int, default=600, help="synthetic records (600)")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES, help="all by default")
    parser.add_argument("--tunings", nargs="+", choices=tuple(TUNINGS), default=("linear_probe", "lora"))
    parser.add_argument("--epochs", type=int, default=6, help="of every run (6)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell (3)")
    add_options(parser)
    options = parser.parse_args(arguments)
    for name in ("epochs", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} >= 1 must hold, got {getattr(options, name)}")
    if OWN_METHOD in options.tunings and set(options.backbones) != {"hubert"}:
        parser.error(f"--tunings {OWN_METHOD} needs --backbones hubert, got {' '.join(options.backbones)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
