"""Sweeps side by side: the best model of each on the same test records, and what it cost.

N: records, R: resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.card import DataCard
from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.models.latency import latency_ms
from platform.models.trained_model import BEST_FOLDER, TrainedModel, read_trained_model
from platform.models.trained_onnx import ONNX_NAME
from platform.sweeps.journal import SweepRecord, read_events, replay
from trainables.bootstrap import percentile_interval, resample
from trainables.evaluation import Evaluation
from trainables.metrics import macro_names, score
from trainables.paired_bootstrap import Difference, holm, paired_difference

N_RESAMPLES = 1000
SEED = 18  # the same resamples of patients for all
LOWER_IS_BETTER = ("mae", "mse", "rmse")


@dataclass(frozen=True)
class Contender:
    """A finished sweep: its best model, its journal, and the answers on the test fold that it kept."""

    folder: Path
    trained: TrainedModel
    record: SweepRecord
    evaluation: Evaluation
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]

    @property
    def data(self) -> DataCard:
        return self.trained.card.data


@dataclass(frozen=True)
class Standing:
    """A sweep's line in the comparison; differences are to the first sweep named, which has none itself.

    Attributes:
        p: two-sided, of no difference; `p_holm` is corrected for the number of sweeps compared.
        hours: that processes have spent on the sweep.
        peak_memory_bytes: of the best trial's training; None where it was not measured.
        latency_ms: as `platform.models.latency`.
    """

    sweep: str
    method: str
    trial: str
    value: float
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p: float | None
    p_holm: float | None
    trials: int
    epochs: int
    hours: float
    trainable_parameters: int
    peak_memory_bytes: int | None
    onnx_bytes: int | None
    latency_ms: float


def read_contender(folder: Path) -> Contender:
    """Read a finished sweep.

    Raises:
        ValueError: it has no best model, or was not tested.
    """
    trained = read_trained_model(folder)
    if trained.run is None:
        raise ValueError(f"{folder} is not in a sweep's folder, so its cost is unknown; give runs/NAME")
    path = trained.run / BEST_FOLDER / PREDICTIONS_FILE
    if not path.exists():
        raise ValueError(f"{folder} was not tested: there is no {path}; compare sweeps that have a test fold")
    with np.load(path) as kept:
        if "patient_ids" not in kept:
            raise ValueError(f"{path} has no patient_ids; it is of an earlier version: run the sweep anew")
        evaluation = _evaluation(trained, kept["predicted_NK"], kept["labels_NK"], kept["thresholds_K"])
        record_ids, patient_ids = kept["record_ids"], kept["patient_ids"]
    return Contender(trained.run, trained, replay(read_events(trained.run)), evaluation, record_ids, patient_ids)


def _evaluation(
    trained: TrainedModel,
    predicted_NK: NDArray[np.float64],
    labels_NK: NDArray[np.float32],
    thresholds_K: NDArray[np.float64],
) -> Evaluation:
    label_set, beta = trained.card.data.label_set, trained.config.threshold_beta
    scores = score(predicted_NK, labels_NK, label_set, thresholds_K, beta)
    return Evaluation(scores, thresholds_K, predicted_NK, labels_NK)


def check_comparable(contenders: Sequence[Contender], metric: str) -> None:
    """Refuse sweeps that were not tested on the same records for the same labels.

    Raises:
        ValueError: one line with what differs, or with the metrics that there are.
    """
    first = contenders[0]
    known = macro_names(first.data.label_set.task)
    if metric not in known:
        raise ValueError(f"--metric must be one of {', '.join(sorted(known))}, but got {metric!r}")
    for other in contenders[1:]:
        difference = next(_differences(first, other, metric), None)
        if difference is not None:
            what, ours, theirs = difference
            raise ValueError(
                f"{other.folder} can't be compared with {first.folder}: {what} differ: {theirs}, not {ours}"
            )
    for each in contenders:
        if metric not in each.evaluation.scores.macro:
            raise ValueError(f"{each.folder} has no {metric}: no label of the test records has both values")


def _differences(first: Contender, other: Contender, metric: str) -> Iterator[tuple[str, Any, Any]]:
    pairs = {
        "fingerprints": (first.data.fingerprint, other.data.fingerprint),
        "folds": tuple(_folds(each.data) for each in (first, other)),
        "labels": tuple((each.data.label_set.name, each.data.label_set.names) for each in (first, other)),
        "tasks": (first.data.label_set.task, other.data.label_set.task),
    }
    if metric == "f_beta":
        pairs["betas"] = (first.trained.config.threshold_beta, other.trained.config.threshold_beta)
    yield from ((what, ours, theirs) for what, (ours, theirs) in pairs.items() if ours != theirs)
    if not np.array_equal(first.record_ids, other.record_ids):
        yield "test records", f"the {len(first.record_ids)}", f"{len(other.record_ids)} records"


def _folds(data: DataCard) -> dict[str, Any]:
    """Return the folds by role, and how they were made where that was at loading."""
    k_fold = data.config.k_fold
    made = {} if k_fold is None else {"k": k_fold.k, "seed": data.config.seed}
    return {**data.folds, **made}


def compare(contenders: Sequence[Contender], metric: str, n_resamples: int = N_RESAMPLES) -> list[Standing]:
    """Return the sweeps, the best first, each compared with the first of `contenders`.

    Raises:
        ValueError: as `check_comparable`.
    """
    check_comparable(contenders, metric)
    values = [each.evaluation.scores.macro[metric] for each in contenders]
    drawn = [_resampled(each, metric, n_resamples) for each in contenders]
    differences = [
        paired_difference(value - values[0], drawn[0], values_R)
        for value, values_R in zip(values[1:], drawn[1:], strict=True)
    ]
    adjusted = holm([difference.p for difference in differences])
    rows = [
        _standing(each, value, values_R, difference, p_holm)
        for each, value, values_R, difference, p_holm in zip(
            contenders, values, drawn, [None, *differences], [None, *adjusted], strict=True
        )
    ]
    return sorted(rows, key=lambda row: row.value, reverse=metric not in LOWER_IS_BETTER)


def _resampled(contender: Contender, metric: str, n_resamples: int) -> NDArray[np.float64]:
    """Return the metric in each resample; the same records are drawn for every contender, as the seed is the same."""
    label_set, beta = contender.data.label_set, contender.trained.config.threshold_beta
    return resample(contender.evaluation, label_set, beta, contender.patient_ids, SEED, n_resamples).macro[metric]


def _standing(
    contender: Contender,
    value: float,
    values_R: NDArray[np.float64],
    difference: Difference | None,
    p_holm: float | None,
) -> Standing:
    trained, record = contender.trained, contender.record
    low, high = percentile_interval(values_R) or (None, None)
    peak = record.trials[trained.card.trial].last.get("peak_memory_bytes")
    onnx = contender.folder / BEST_FOLDER / ONNX_NAME
    return Standing(
        sweep=contender.folder.name,
        method=trained.card.method,
        trial=trained.card.trial,
        value=value,
        low=low,
        high=high,
        difference=None if difference is None else difference.value,
        difference_low=None if difference is None else difference.low,
        difference_high=None if difference is None else difference.high,
        p=None if difference is None else difference.p,
        p_holm=p_holm,
        trials=len(record.trials),
        epochs=record.epochs,
        hours=sum(end - start for start, end in record.sessions) / 3600,
        trainable_parameters=sum(each.numel() for each in trained.model.parameters() if each.requires_grad),
        peak_memory_bytes=None if peak is None else round(peak),
        onnx_bytes=onnx.stat().st_size if onnx.exists() else None,
        latency_ms=latency_ms(trained),
    )


def to_table(standings: Sequence[Standing], metric: str) -> pd.DataFrame:
    """Return a row a sweep; the metric's column has its name."""
    columns = [field.name for field in fields(Standing)]
    table = pd.DataFrame([vars(each) for each in standings], columns=columns).rename(columns={"value": metric})
    table.insert(0, "rank", range(1, len(table) + 1))
    return table
