"""Export a trained model.

    python -m platform.export RUN [--trial ID] --format onnx|safetensors|edge [--int8] --out OUT

onnx: one file that takes mV and answers with probabilities (regression: values in units). Normalisation, lead
selection, cropping, the model's windows and their pooling are inside. Filters and resampling are not: where the run has
some, they and the steps before them are the caller's, printed and listed in the file's metadata (`steps_before`),
beside lead order, rate, label names and thresholds. Before the file is written, it is compared with the run's own
preprocessing and PyTorch.

--int8 quantises it with onnxruntime (static, QDQ), calibrated on records of the run's training folds; prints what that
costs on validation. Needs the run's store; --store says where it is now.

edge: a folder with the files for a small device: the network alone, which takes one preprocessed window at a time and
answers with logits, in float32 and in int8 (static, QDQ and QOperator). Each is tried on the validation folds, and the
smallest is named. Needs the run's store, as --int8 does.

safetensors: the weights, with the model's card (`best/config.json`) in the header under `card`.

Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data.loading import Role, build_plan, check_shards, load, select_role
from data.preprocessing import Step
from data.streaming import StreamedSplit
from platform.command_line import OneLineParser, run_command
from platform.methods.edge_table import edge_lines
from platform.models.exported_model import export_trained
from platform.models.trained_model import TrainedModel, read_trained_model
from trainables.checkpoint import load_weights, save_weights, write_whole
from trainables.deployed_model import cut_chain
from trainables.deployed_onnx import DeployedOnnx, Difference
from trainables.edge_files import write_edge_files
from trainables.metrics import score
from trainables.quantisation import quantise
from trainables.windows import window_signal

N_CALIBRATION = 256  # records of the training folds
BATCH = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    return run_command("platform.export", partial(export_command, options), "nothing is written")


def export_command(options: argparse.Namespace) -> str:
    """Write the file, and return what it is.

    Raises:
        ValueError, OSError: bad input; nothing is written.
    """
    _check_place(options)
    if options.format != "onnx" and options.int8:
        why = "safetensors holds the weights as they were trained" if options.format == "safetensors" else "edge has it"
        raise ValueError(f"--int8 is for --format onnx: {why}")
    trained = read_trained_model(options.run, options.trial)
    if options.format == "edge":
        return _export_edge(trained, options.store, options.out)
    if options.format == "safetensors":
        return _export_safetensors(trained, options.out)
    with tempfile.TemporaryDirectory() as name:
        exact = Path(name) / "exact.onnx"
        difference = export_trained(trained, exact)
        lines = [*_onnx_lines(trained, exact), _difference_line(difference)]
        file = exact
        if options.int8:
            file = Path(name) / "int8.onnx"
            lines += Quantisation(trained, options.store, exact).write(file)
        write_whole(options.out, lambda path: shutil.copyfile(file, path))
    return "\n".join([f"{options.out}: {options.out.stat().st_size:,} bytes", *lines])


def _check_place(options: argparse.Namespace) -> None:
    out: Path = options.out
    if options.format == "edge":
        if not out.absolute().parent.is_dir() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise ValueError(f"--out {out}: edge writes a folder; name a new or an empty one in a folder that is there")
    elif not out.absolute().parent.is_dir() or out.is_dir():
        raise ValueError(f"--out {out}: name a file in a folder that is there")


def _export_edge(trained: TrainedModel, store: Path | None, folder: Path) -> str:
    card = trained.card
    place = {} if store is None else {"store": str(store)}
    config = card.data.config.model_copy(update={**place, "fingerprint": card.data.fingerprint})
    dataset = load(config)
    with tempfile.TemporaryDirectory() as name:
        files = write_edge_files(trained.model, trained.config, dataset, card.thresholds_K, Path(name))
        lines = list(edge_lines(files))
        folder.mkdir(exist_ok=True)
        for file in files:
            write_whole(folder / file.path.name, partial(shutil.copyfile, file.path))
    signal = window_signal(trained.config, card.data.signal)
    takes = f"ecg (1, {len(signal.lead_names)}, {signal.n_timesteps}), preprocessed; answers: logits of one record"
    return "\n".join([f"{folder}: {len(files)} files of {card.trial}; input: {takes}", *lines])


class Quantisation:
    """Quantises a run's ONNX file, with records of the run's store.

    Args:
        store: where the store is now; None: where it was.
        exact: the file in float32.
    """

    def __init__(self, trained: TrainedModel, store: Path | None, exact: Path) -> None:
        self._trained, self._exact = trained, exact
        data = trained.card.data
        self._before = cut_chain(data.preprocess).before
        self._store = data.config.store if store is None else str(store)

    def write(self, path: Path) -> list[str]:
        """Write the int8 file, and return what it cost and gained."""
        train = self._open("train", N_CALIBRATION)
        n_layers = quantise(self._exact, (batch.ecg_BLT for batch in train.batches(BATCH)), path)
        validation = self._open("val")
        exact, rounded = (self._score(DeployedOnnx(file), validation) for file in (self._exact, path))
        share = path.stat().st_size / self._exact.stat().st_size
        return [
            f"int8: {n_layers} layers, calibrated on {train.n_records} records of the training folds; {share:.0%} of "
            f"the float32 file's {self._exact.stat().st_size:,} bytes",
            f"validation, {validation.n_records:,} records: float32, int8, difference",
            *_cost_lines(exact, rounded),
        ]

    def _open(self, role: Role, n_records: int | None = None) -> StreamedSplit:
        """Open a role's records as the file takes them, at most `n_records`, evenly spread over the store."""
        data = self._trained.card.data
        changes = {"store": self._store, "preprocess": self._before, "fingerprint": data.fingerprint}
        config = data.config.model_copy(update=changes)
        plan = build_plan(config)
        selection = select_role(plan, check_shards(config, plan, [""] * len(plan.shards)), role)
        taken = np.zeros(len(selection), np.bool_)
        taken[np.linspace(0, len(selection) - 1, min(n_records or len(selection), len(selection))).astype(int)] = True
        return StreamedSplit(plan, selection.take(taken))

    def _score(self, session: DeployedOnnx, split: StreamedSplit) -> Mapping[str, float]:
        predicted_NK = np.concatenate([session.answer(batch.ecg_BLT) for batch in split.batches(BATCH)])
        card, labels_NK = self._trained.card, split.labels_NK
        scores = score(
            predicted_NK, labels_NK, card.data.label_set, card.thresholds_K, self._trained.config.threshold_beta
        )
        return scores.macro


def _export_safetensors(trained: TrainedModel, path: Path) -> str:
    save_weights(path, load_weights(trained.weights), {"card": trained.card.model_dump_json()})
    n_parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    return (
        f"{path}: {path.stat().st_size:,} bytes, {n_parameters:,} parameters of {trained.card.trial}; "
        "the card is in its header"
    )


def _onnx_lines(trained: TrainedModel, path: Path) -> Iterator[str]:
    data, chain = trained.card.data, cut_chain(trained.card.data.preprocess)
    signal = DeployedOnnx(path).signal
    yield (
        f"input: ecg in mV, (records, {len(signal.lead_names)}, {signal.n_timesteps}) at {signal.fs_hz:g} Hz, leads "
        f"{', '.join(signal.lead_names)}"
    )
    what = "values" if data.label_set.task == "regression" else "probabilities"
    yield f"output: {what} of {', '.join(data.label_set.names)}"
    yield f"inside: {_steps_text(chain.inside)}"
    if chain.before:
        yield f"NOT inside, to be done before: {_steps_text(chain.before)}"


def _steps_text(steps: Sequence[Step]) -> str:
    return ", ".join(json.dumps(step.model_dump(mode="json")) for step in steps) or "no preprocessing step"


def _difference_line(difference: Difference) -> str:
    return (
        "ONNX against the run's preprocessing and PyTorch, on ECGs in mV at batches 1 and 5: largest difference "
        f"{difference.largest:.1e}"
    )


def _cost_lines(exact: Mapping[str, float], rounded: Mapping[str, float]) -> Iterator[str]:
    width = max(map(len, exact))
    for name in exact:
        yield f"  {name:<{width}} {exact[name]:>9.4f} {rounded[name]:>9.4f} {rounded[name] - exact[name]:>+9.4f}"


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="platform.export", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="runs/NAME, its best/, or runs/NAME/trials/ID")
    parser.add_argument("--trial", metavar="ID", help="a trial of the sweep whose checkpoint is left, e.g. t0007")
    parser.add_argument("--format", choices=("onnx", "safetensors", "edge"), required=True, help="what to write")
    parser.add_argument("--int8", action="store_true", help="onnx: quantise to int8")
    parser.add_argument("--store", type=Path, help="--int8, edge: the run's store, where it was moved")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="OUT", help="file to write; one that is there goes; edge: folder"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
