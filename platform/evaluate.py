"""Judge a trained model on a split of a store.

    python -m platform.evaluate RUN_OR_CHECKPOINT --store STORE [--split test|val|train] [--labels L] [--trial ID]
        [--onnx] [--out FOLDER]

RUN_OR_CHECKPOINT is a sweep's folder, its best/, or a trial's folder in it. Writes evaluation.json, metrics.csv and
evaluation.html. With --onnx the model's ONNX file answers: best/model.onnx, or that of another trial, made for now. Its
probabilities agree with PyTorch's to 1e-5 (fp32), so that metrics are equal unless records change places within that.

Every look at a test fold is an event of the sweep's journal, and counted in MLflow as `test_looks`.
Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from data.loading import Role
from data.store_folder import check_free
from platform.command_line import BAD_INPUT, OneLineParser, one_line
from platform.evaluation.page import render_evaluation
from platform.evaluation.report import EvaluationReport
from platform.evaluation.scorecard import Measured, Scoring
from platform.evaluation.split import EvaluationSplit, open_evaluation_split
from platform.evaluation.subgroups import subgroups
from platform.models.trained_model import TrainedModel, read_trained_model
from platform.models.trained_onnx import onnx_network
from platform.search.study import spawn_seed
from platform.sweeps.folder import git_commit, locked, new_folder, versions
from platform.sweeps.journal import Journal, read_events, replay
from trainables.bootstrap import N_RESAMPLES
from trainables.evaluation import evaluate

EVALUATIONS = "evaluations"  # folder in the sweep's


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    place: Path
    trial: str | None
    store: Path
    split: Role
    labels: str | None
    onnx: bool
    out: Path | None


@dataclass(frozen=True)
class Looks:
    """How often test folds were looked at with models of a sweep: at this store's, and at all."""

    this_store: int
    all: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    request = _parse_arguments(arguments)
    try:
        trained = read_trained_model(request.place, request.trial)
        print(_evaluate(request, trained))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"platform.evaluate: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    if _is_counted(request, trained):
        _tell_mlflow(trained)
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> Request:
    parser = OneLineParser(prog="platform.evaluate", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("place", metavar="RUN_OR_CHECKPOINT", type=Path, help="a sweep's folder, its best/, or a trial")
    parser.add_argument("--store", metavar="STORE", type=Path, required=True, help="the data to judge it on")
    parser.add_argument("--split", choices=get_args(Role), default="test", help="records to judge it on (test)")
    parser.add_argument("--labels", metavar="L", help="the store's label set (the one that the model was trained on)")
    parser.add_argument("--trial", metavar="ID", help="trial of the sweep (the best)")
    parser.add_argument("--onnx", action="store_true", help="let the ONNX file answer, by onnxruntime")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help=f"folder to make (RUN/{EVALUATIONS}/STORE-SPLIT-001)"
    )
    options: argparse.Namespace = parser.parse_args(arguments)
    return Request(**vars(options))


def _evaluate(request: Request, trained: TrainedModel) -> str:
    """Evaluate, count the look and write the files; returns what to print.

    Raises:
        ValueError, OSError, FloatingPointError: bad input; nothing is written.
    """
    if request.out is not None:
        check_free(request.out)
    network = onnx_network(trained) if request.onnx else trained.model
    opened = open_evaluation_split(trained, request.store, request.split, request.labels)
    counted = _is_counted(request, trained)
    assert trained.run is not None or not counted
    # The journal has one writer; a sweep that still runs is told of before hours of work.
    with locked(trained.run) if counted and trained.run is not None else nullcontext():
        report = judge(trained, network, opened, _header(request, trained, opened))
        looks = count_look(trained, report, opened) if counted else None
    folder = _write(request, trained, report)
    return "\n".join([*_lines(report), _look_line(request, looks), f"  {folder}/evaluation.html"])


def judge(
    trained: TrainedModel, network: nn.Module, opened: EvaluationSplit, header: dict[str, str]
) -> EvaluationReport:
    """Measure the answers of `network`, which is the trained model's or stands in its place.

    Raises:
        FloatingPointError: the answers are not finite.
    """
    card, split = trained.card, opened.split
    device = "cuda" if network is trained.model and torch.cuda.is_available() else "cpu"
    evaluation = evaluate(network, split, trained.config, card.data.label_set, card.thresholds_K, device)
    scoring = Scoring(
        evaluation,
        card.data.label_set,
        trained.config.threshold_beta,
        split.patient_ids,
        opened.manifest.patients_known,
        seed=spawn_seed(card.seed, 0, 3),  # that of the sweep's own look: the same intervals
    )
    groups = [scoring.score(group.attribute, group.name, group.mask_N) for group in subgroups(opened.meta)]
    return EvaluationReport(
        header, card.data.label_set, evaluation, (scoring.score("all", "all", None), *groups), _notes(opened)
    )


def count_look(trained: TrainedModel, report: EvaluationReport, opened: EvaluationSplit) -> Looks:
    """Append a look at a test fold to the sweep's journal, whose lock the caller holds; returns the counts with it."""
    assert trained.run is not None
    journal = Journal(trained.run)
    record = replay(read_events(trained.run))
    fingerprint = opened.manifest.fingerprint
    journal.append(
        "tested",
        trained.card.trial,
        look=len(record.tested) + 1,
        store=report.header["store"],
        fingerprint=fingerprint,
        evaluated={name: measured.value for name, measured in report.whole.macro.items()},
    )
    journal.close()
    # The sweep's own looks name no store.
    earlier = [event.body.get("fingerprint", trained.card.data.fingerprint) for event in record.tested]
    return Looks(this_store=earlier.count(fingerprint) + 1, all=len(earlier) + 1)


def _is_counted(request: Request, trained: TrainedModel) -> bool:
    return request.split == "test" and trained.run is not None


def _tell_mlflow(trained: TrainedModel) -> None:
    from platform import tracking  # MLflow takes seconds to import, and only a look at test needs it

    assert trained.run is not None
    if (trained.run / tracking.CURSOR_NAME).exists():
        tracking.main([str(trained.run)])
    else:
        print(f"{trained.run} was not tracked: MLflow hears nothing of this look")


def _header(request: Request, trained: TrainedModel, opened: EvaluationSplit) -> dict[str, str]:
    card, manifest = trained.card, opened.manifest
    whose = "the sweep's own store and folds" if opened.is_own else "not the store of the sweep"
    unit = "patient" if manifest.patients_known else "record, as patients are unknown"
    return {
        "sweep": card.sweep,
        "trial": card.trial,
        "method": card.method,
        "weights": str(trained.weights),
        "runtime": "onnxruntime" if request.onnx else "PyTorch",
        "store": str(request.store),
        "fingerprint": manifest.fingerprint,
        "data": f"{manifest.kind}; {whose}",
        "split": request.split,
        "folds": ", ".join(map(str, opened.folds)),
        "label set": opened.label_set.name,
        "intervals": f"95 %, bootstrap of {N_RESAMPLES} resamples by {unit}",
        "git commit": git_commit(),
        "versions": versions(),
    }


def _notes(opened: EvaluationSplit) -> tuple[str, ...]:
    notes = opened.manifest.notes
    if opened.n_bad_records:
        notes = (*notes, f"{opened.n_bad_records} records of corrupt shards are left out")
    return notes


def _write(request: Request, trained: TrainedModel, report: EvaluationReport) -> Path:
    """Write the three files into a new folder, and return it."""
    html, text, table = render_evaluation(report), report.to_json(), report.to_table()
    if request.out is None:
        base = trained.run or trained.weights.parent
        folder = new_folder(base / EVALUATIONS, f"{request.store.name}-{request.split}")
    else:
        folder = request.out
        folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(text, encoding="utf-8")
    table.to_csv(folder / "metrics.csv", index=False)
    (folder / "evaluation.html").write_text(html, encoding="utf-8")
    return folder


# ---------------------------------------------------------------------- what is printed


def _lines(report: EvaluationReport) -> list[str]:
    header, whole = report.header, report.whole
    head = f"{header['sweep']} {header['trial']} on {header['split']} of {header['store']} ({header['runtime']}): "
    width = max(map(len, whole.macro))
    lines = [f"{head}{whole.n_records:,} records; {header['intervals']}"]
    lines += [f"  {name:<{width}}  {_text(measured)}" for name, measured in whole.macro.items()]
    first = report.headline
    for card in report.cards[1:]:
        value = _text(card.macro[first]) if first in card.macro else "no class with positives and negatives"
        lines.append(f"  {first}, {card.attribute} {card.group} ({card.n_records:,} records): {value}")
    return lines


def _text(measured: Measured) -> str:
    interval = "" if measured.low is None else f" ({measured.low:.4f} to {measured.high:.4f})"
    return f"{measured.value:.4f}{interval}"


def _look_line(request: Request, looks: Looks | None) -> str:
    if looks is not None:
        return (
            f"looks at this store's test fold: {looks.this_store}; at any store's with this sweep's models: {looks.all}"
        )
    return f"split {request.split}: no look at a test fold is counted" + (
        "; the model is not in its sweep's folder" if request.split == "test" else ""
    )


if __name__ == "__main__":
    sys.exit(main())
