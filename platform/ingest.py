"""Turn a public data set into a store of shards.

    python -m platform.ingest KIND SOURCE --out STORE [--format hdf5|parquet] [--dtype float32|float16] [OPTIONS]

Kinds and their options: `python -m platform.ingest --help`, `python -m platform.ingest KIND --help`.
Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk), 130 interrupted: the same command goes
on.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data import READERS
from data.counts import add_labels
from data.dataset import LabelSet
from data.ingest import Progress as Report
from data.ingest import check_free, ingest
from data.store import Dtype, Format, Manifest

BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    out = Path(options.out)
    try:
        check_free(out)
        entry = READERS[options.kind]
        reader = entry.reader_builder()(build_config(entry.config_type(), options))
        with shown_progress(f"{options.kind} -> {out}") as report:
            manifest = ingest(reader, out, shard_format=options.format, dtype=options.dtype, progress=report)
    except (ValueError, OSError) as error:
        print(f"platform.ingest: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("platform.ingest: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    print(summary_text(manifest, out))
    return 0


class OneLineParser(argparse.ArgumentParser):
    """Prints what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with code 2 where it is wrong. An option is known to its kinds only."""
    parser = OneLineParser(prog="platform.ingest", description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, help=f"one of: {', '.join(READERS)}")
    for kind in READERS:
        command = kinds.add_parser(kind, allow_abbrev=False)
        if kind in arguments:  # its module is imported for its options: no kind pays for another's
            _add_options(command, READERS[kind].config_type())
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(parser, options.kind, unknown[0])
    return options


def build_config(config_type: type[BaseModel], options: argparse.Namespace) -> BaseModel:
    """Build a kind's configuration from the options that were given.

    Raises:
        ValueError: a value is refused; one line that names the option.
    """
    given = {name: getattr(options, name) for name in config_type.model_fields if hasattr(options, name)}
    try:
        return config_type.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        where = f"{_argument(config_type, name)}: " if name else ""
        got = f", got {first['input']!r}" if name in given else ""
        raise ValueError(f"{where}{first['msg'].removeprefix('Value error, ')}{got}") from None


@contextmanager
def shown_progress(title: str) -> Iterator[Report]:
    """Yield a callback for `data.ingest.ingest` that shows a bar on a terminal, and plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_progress(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(escape(title), total=None, records="")

        def report(done: int, total: int, n_records: int) -> None:
            bar.update(task, completed=done, total=total, records=f"{n_records:,} records")

        yield report


def summary_text(manifest: Manifest, out: Path) -> str:
    """Say what a store holds: counts, prevalence by fold, fingerprint and notes."""
    counts = manifest.counts
    patients = "patients unknown" if counts.n_patients is None else f"{counts.n_patients:,} patients"
    lines = [
        f"{out}: {counts.n_records:,} records, {patients}, {len(manifest.shards)} {manifest.format} shards",
        f"signal: {len(manifest.lead_names)} leads x {manifest.n_timesteps} timesteps at {manifest.fs_hz:g} Hz",
        f"folds: {_fold_text(manifest.folds)}",
    ]
    for label_set in manifest.label_sets.values():
        lines += _label_lines(label_set, manifest)
    lines.append(f"fingerprint: {manifest.fingerprint}")
    return "\n".join([*lines, *(f"note: {note}" for note in manifest.notes)])


def one_line(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def _add_options(command: argparse.ArgumentParser, config_type: type[BaseModel]) -> None:
    """Add what all kinds take, and one argument a field of the kind's configuration: the first is SOURCE."""
    source, *names = config_type.model_fields
    fields = config_type.model_fields
    command.add_argument(source, metavar="SOURCE", help=_help(fields[source].description))
    command.add_argument("--out", required=True, metavar="STORE", help="folder to make; must not exist, or be empty")
    command.add_argument("--format", choices=get_args(Format), default="hdf5", help="file format of the shards (hdf5)")
    command.add_argument(
        "--dtype", choices=get_args(Dtype), default="float32", help="number format of the signal (float32)"
    )
    for name in names:
        field = fields[name]
        # Only what is given reaches the configuration, which has the defaults and checks the values.
        keywords: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": _help(f"{field.description}{_default(field)}"),
        }
        if field.annotation is bool:
            keywords["action"] = "store_true"
        else:
            keywords |= {"metavar": name.upper(), "type": _number_or_text, "required": field.is_required()}
        command.add_argument(_flag(name), **keywords)


def _refuse(parser: argparse.ArgumentParser, kind: str, unknown: str) -> NoReturn:
    flags = ["--out", "--format", "--dtype", *(_flag(name) for name in [*READERS[kind].config_type().model_fields][1:])]
    near = difflib.get_close_matches(unknown.partition("=")[0], flags, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    parser.exit(BAD_INPUT, f"{parser.prog}: {unknown} is no option of {kind}; {hint}It takes {', '.join(flags)}\n")


def _argument(config_type: type[BaseModel], name: str) -> str:
    return "SOURCE" if name == next(iter(config_type.model_fields)) else _flag(name)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(field: FieldInfo) -> str:
    return "" if field.is_required() or field.default in (None, False) else f" ({field.default})"


def _help(description: str | None) -> str:
    return (description or "").replace("%", "%%")


def _number_or_text(text: str) -> int | float | str:
    """Return a number where the text is one: pydantic's `Literal[100, 500]` takes no text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _print_progress(title: str) -> Report:
    """Return a callback that prints a line whenever another tenth is done."""
    tenths = 0

    def report(done: int, total: int, n_records: int) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            print(f"{title}: {done * 100 // total} %, {n_records:,} records", file=sys.stderr)

    return report


def _label_lines(label_set: LabelSet, manifest: Manifest) -> list[str]:
    """Say how often each label occurs: over all, then by fold."""
    counts, by_fold = manifest.counts, manifest.counts.labels[label_set.name]
    what = "known values" if label_set.task == "regression" else "prevalence"
    width = max(map(len, (*label_set.names, label_set.name)))
    head = " ".join(f"{f'fold {fold}':>7}" for fold in counts.records)
    lines = [f"{what} of {label_set.name} ({label_set.task})", f"  {'':<{width}} {'all':>7} {head}"]
    for index, (name, total) in enumerate(zip(label_set.names, add_labels(by_fold.values()), strict=True)):
        shares = [_share(by_fold[fold][index], counts.records[fold]) for fold in counts.records]
        lines.append(f"  {name:<{width}} {_share(total, counts.n_records)} {' '.join(shares)}")
    return lines


def _fold_text(folds: Mapping[str, tuple[int, ...]]) -> str:
    return "; ".join(f"{role} {', '.join(map(str, numbers))}" for role, numbers in folds.items())


def _share(count: int, n_records: int) -> str:
    return f"{count / n_records if n_records else 0:>7.1%}"


if __name__ == "__main__":
    sys.exit(main())
