"""Apply a trained model to ECGs: `python -m platform.predict BEST FILE...`.

BEST is a sweep's folder (its best trial, or --trial), its best/, or a trial's folder in it. FILE is a WFDB record
(.hea, or the path without it), a NumPy array (.npy, leads x timesteps), HDF5, Parquet or CSV (a column a lead) in mV,
or a store. Records are prepared as the run prepared its own: leads by name, resampled to its rate, its preprocessing
steps. Of missing leads III, aVR, aVL and aVF are computed where I and II are there. A shorter record is padded, with
its length known; a longer one is cut into pieces of the training records' length that overlap by half, whose answers
are pooled by the run's `window_pooling`.

Writes a CSV: record_id, the probability of each label (regression: values in units), and what is called at the
thresholds that were fitted on validation. Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk).
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.ecg_paper import PaperRecord, Strip, draw_records
from data.record_reader import conform
from data.recording import FileFormat, complete_leads, read_recordings
from platform.command_line import OneLineParser, run_command
from platform.models.predictions import Caller, Prediction, columns, write_predictions
from platform.models.trained_model import TrainedModel, read_trained_model
from platform.models.trained_onnx import onnx_network
from trainables.checkpoint import write_whole
from trainables.predictor import Predictor


@dataclass(frozen=True)
class Input:
    """The files, and how to take them in."""

    files: tuple[Path, ...]
    form: FileFormat
    zero_missing: bool
    nan: Literal["quarantine", "zero", "interpolate"]


@dataclass(frozen=True)
class Ecg:
    """A record as the model's store would hold it, of any length: ecg_LT in mV."""

    record_id: str
    ecg_LT: NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    return run_command("platform.predict", partial(predict_command, options), "nothing is written")


def predict_command(options: argparse.Namespace) -> None:
    """Predict all files, and then write the table and the pictures.

    Raises:
        ValueError, OSError: bad input; nothing is written.
    """
    _check_places(options)
    trained = read_trained_model(options.best, options.trial)
    signal = trained.card.data.input_signal
    form = FileFormat(signal.lead_names, options.leads, options.fs_hz)
    given = Input(tuple(options.files), form, options.zero_missing_leads, options.nan)
    predictor = build_predictor(trained, onnx=options.onnx)
    with tempfile.TemporaryDirectory() as name:
        album = None if options.plot is None else Album(trained, Path(name), options.plot)
        predictions = list(_predictions(predictor, _read(given, predictor), options.batch_size, album))
        if options.out is None:
            write_predictions(sys.stdout, predictions, trained.card)
        else:
            write_whole(options.out, lambda path: _write_file(path, predictions, trained))
            print(f"{options.out}: {len(predictions)} records", file=sys.stderr)
        if album is not None:
            album.publish()


def build_predictor(trained: TrainedModel, *, onnx: bool = False) -> Predictor:
    """Return the model ready for records, in PyTorch or, with `onnx`, as its ONNX file in onnxruntime."""
    network = onnx_network(trained) if onnx else trained.model
    return Predictor(network, trained.config, trained.card.data)


class Album:
    """Pictures of predicted records, drawn into `folder` and moved to `place` when all are done."""

    def __init__(self, trained: TrainedModel, folder: Path, place: Path) -> None:
        self._caller, self._folder, self._place = Caller(trained.card), folder, place
        self._predictor = build_predictor(trained)  # gradients need PyTorch
        self._names: Counter[str] = Counter()

    def add(self, ecg: Ecg, prediction: Prediction) -> None:
        """Draw one record with its result, and what the result rests on.

        Raises:
            ValueError: there is a second record, but one picture to write.
        """
        from trainables.saliency import saliency  # imports captum

        if self._is_one_picture and self._names:
            raise ValueError(f"--plot {self._place} is one picture, but there are several records; give a folder")
        label = self._caller.foremost(prediction.predicted_K)
        strip = Strip(
            saliency(self._predictor, ecg.ecg_LT, label),
            f"what {columns(self._caller.card)[label]} rests on (integrated gradients)",
        )
        signal = self._predictor.data.input_signal
        paper = PaperRecord(ecg.ecg_LT, signal.lead_names, signal.fs_hz, self._caller.title(prediction), strip)
        draw_records([paper], self._folder / self._file_name(ecg.record_id))

    def publish(self) -> None:
        """Move the pictures to their place."""
        if not self._is_one_picture:
            shutil.copytree(self._folder, self._place, dirs_exist_ok=True)
        for picture in self._folder.iterdir() if self._is_one_picture else ():
            shutil.copyfile(picture, self._place)

    @property
    def _is_one_picture(self) -> bool:
        return self._place.suffix.lower() == ".png"

    def _file_name(self, record_id: str) -> str:
        name = re.sub(r"[^\w.-]", "_", record_id)
        self._names[name] += 1
        return f"{name}.png" if self._names[name] == 1 else f"{name}-{self._names[name]}.png"


def _predictions(
    predictor: Predictor, records: Iterable[Ecg], batch_size: int, album: Album | None
) -> Iterator[Prediction]:
    left = iter(records)
    while batch := list(islice(left, batch_size)):
        predicted_NK = predictor.predict([ecg.ecg_LT for ecg in batch], batch_size)
        for ecg, predicted_K in zip(batch, predicted_NK, strict=True):
            prediction = Prediction(ecg.record_id, predicted_K)
            if album is not None:
                album.add(ecg, prediction)
            yield prediction


def _read(given: Input, predictor: Predictor) -> Iterator[Ecg]:
    """Yield the files' records with the model's leads, at its store's rate, and say which leads were made up."""
    signal, said = predictor.data.input_signal, set()
    for file in given.files:
        for recording in read_recordings(file, given.form):
            try:
                record, derived, zeroed = complete_leads(recording.record, signal.lead_names, given.zero_missing)
                length = -(-record.ecg_LT.shape[1] * signal.fs_hz // record.fs_hz)
                ecg_LT = conform(record, replace(signal, n_timesteps=int(length) + 1), given.nan)
            except ValueError as error:
                raise ValueError(f"{file}: record {recording.record_id}: {error}") from None
            for names, what in ((derived, "computed from I and II"), (zeroed, "set to zero")):
                if names and (names, what) not in said:
                    said.add((names, what))
                    print(f"{file}: missing leads {', '.join(names)} are {what}", file=sys.stderr)
            yield Ecg(recording.record_id, ecg_LT)


def _check_places(options: argparse.Namespace) -> None:
    for flag, place in (("--out", options.out), ("--plot", options.plot)):
        if place is not None and not place.absolute().parent.is_dir():
            raise ValueError(f"{flag} {place}: there is no folder {place.parent}; make it first")
    if options.out is not None and options.out.is_dir():
        raise ValueError(f"--out {options.out} is a folder; name a file")


def _write_file(path: Path, predictions: Sequence[Prediction], trained: TrainedModel) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_predictions(file, predictions, trained.card)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="platform.predict", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("best", type=Path, metavar="BEST", help="runs/NAME, its best/, or runs/NAME/trials/ID")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="ECGs, or stores")
    parser.add_argument("--trial", metavar="ID", help="a trial of the sweep whose checkpoint is left, e.g. t0007")
    parser.add_argument("--onnx", action="store_true", help="run the ONNX file instead of PyTorch")
    parser.add_argument("--fs-hz", type=float, metavar="HZ", help="sampling rate of files that don't say it")
    parser.add_argument("--leads", type=_names, metavar="I,II,...", help="the files' leads, in order")
    parser.add_argument(
        "--zero-missing-leads", action="store_true", help="set leads to zero that a file lacks, instead of refusing it"
    )
    parser.add_argument(
        "--nan", choices=("zero", "interpolate"), default="quarantine", help="values that are not finite (refused)"
    )
    parser.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="records at a time (64)")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where to write the table (standard output)")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PATH",
        help="draw each ECG with its result and what it rests on: a folder, or a .png for one record",
    )
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
