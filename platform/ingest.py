"""Turn a public data set into a store of shards; look at a store; write its records as one HDF5 file.

    python -m platform.ingest KIND SOURCE --out STORE [--download] [--format hdf5|parquet] [--dtype float32|float16]
        [OPTIONS]
    python -m platform.ingest --inspect STORE [--png FILE] [--n-records N]
    python -m platform.ingest --export STORE --labels SET --out FILE [--n-timesteps N]

Kinds and their options: `python -m platform.ingest --help`, `python -m platform.ingest KIND --help`.
Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk), 130 interrupted: the same command goes
on.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data import READERS
from data.bucket import send
from data.ecg_paper import draw_records
from data.ingest import Progress as Report
from data.ingest import ingest
from data.inspection import inspect_store, sample_records
from data.kinds.code_hdf5 import export_code_hdf5
from data.loading import DataConfig, describe, make_store
from data.store import Dtype, Format
from data.store_folder import check_free
from platform.command_line import BAD_INPUT, OneLineParser, run_command
from platform.store_text import inspection_text, summary_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = {argument.partition("=")[0] for argument in arguments}
    command = next((command for flag, command in COMMANDS.items() if flag in flags), ingest_command)
    return run_command("platform.ingest", partial(command, arguments), "the same command goes on from here")


def ingest_command(arguments: Sequence[str]) -> str:
    """Make a store, and return what it holds.

    Raises:
        ValueError: bad input; nothing is left on disk.
    """
    options = parse_arguments(arguments)
    out = Path(options.out)
    check_free(out)
    entry = READERS[options.kind]
    config = build_config(entry.config_type(), options)
    if options.download:
        fetch(options.kind, Path(getattr(config, next(iter(entry.config_type().model_fields)))))
    reader = entry.reader_builder()(config)
    with shown_progress(f"{options.kind} -> {out}") as report:
        manifest = ingest(reader, out, shard_format=options.format, dtype=options.dtype, progress=report)
    return summary_text(manifest, out)


def fetch(kind: str, folder: Path) -> None:
    """Fetch a kind's whole data set from its publisher.

    Raises:
        ValueError: as `data.download.download`.
    """
    from data.download import download  # an HTTP client that nothing else here needs

    with shown_progress(f"download of {kind} -> {folder}", unit="bytes") as report:
        download(kind, folder, report)


def inspect_command(arguments: Sequence[str]) -> str:
    """Draw some records of a store on ECG paper, and return what it holds and what is doubtful.

    Raises:
        ValueError: there is no store, or it is damaged.
    """
    parser = OneLineParser(prog="platform.ingest --inspect", allow_abbrev=False)
    parser.add_argument("--inspect", required=True, metavar="STORE", type=Path, help="store to look at")
    parser.add_argument("--png", metavar="FILE", type=Path, help="picture to write (STORE/inspect.png)")
    parser.add_argument("--n-records", metavar="N", type=_positive, default=4, help="records in the picture (4)")
    options = parser.parse_args(arguments)
    png = options.png or options.inspect / "inspect.png"
    text = inspection_text(inspect_store(options.inspect), options.inspect)
    draw_records(sample_records(options.inspect, options.n_records), png)
    return f"{text}\npicture: {png}"


def export_command(arguments: Sequence[str]) -> str:
    """Write a store's records and one label set as one HDF5 file in CODE's layout, and return what was written.

    Raises:
        ValueError: as `data.kinds.code_hdf5.export_code_hdf5`.
    """
    parser = OneLineParser(prog="platform.ingest --export", allow_abbrev=False)
    parser.add_argument("--export", required=True, metavar="STORE", type=Path, help="store to read")
    parser.add_argument("--labels", required=True, metavar="SET", help="its label set that becomes label_set")
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="HDF5 file to write; must not exist")
    parser.add_argument("--n-timesteps", metavar="N", type=_positive, help="length of the records (the store's)")
    options = parser.parse_args(arguments)
    done = export_code_hdf5(options.export, options.labels, options.out, options.n_timesteps)
    left_out = f", {done.n_left_out:,} without labels left out" if done.n_left_out else ""
    return (
        f"{options.out}: {done.n_records:,} records of {done.n_timesteps:,} timesteps{left_out}\n"
        f"labels: {', '.join(done.label_names)}"
    )


COMMANDS: Mapping[str, Callable[[Sequence[str]], str]] = {"--inspect": inspect_command, "--export": export_command}
"""What else than ingestion the command does, by the flag that asks for it."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with code 2 where it is wrong. An option is known to its kinds only."""
    parser = OneLineParser(
        prog="platform.ingest",
        description=(__doc__ or "").splitlines()[0],
        epilog="Also --inspect STORE and --export STORE; what they take: --inspect STORE --help, --export STORE --help",
    )
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


def made_store(config: DataConfig) -> None:
    """Make a synthetic store at its first use, with its progress shown; one of a bucket goes there."""
    if describe(config).manifest is None:
        with shown_progress(f"making {config.store}") as progress:
            make_store(config, progress)
        send(Path(config.store))


@contextmanager
def shown_progress(title: str, unit: str = "records") -> Iterator[Report]:
    """Yield a callback for `data.ingest.ingest` that shows a bar on a terminal, and plain lines elsewhere.

    Args:
        unit: of the callback's third number.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_progress(title, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(escape(title), total=None, amount="")

        def report(done: int, total: int, amount: int) -> None:
            bar.update(task, completed=done, total=total, amount=f"{amount:,} {unit}")

        yield report


def _add_options(command: argparse.ArgumentParser, config_type: type[BaseModel]) -> None:
    """Add what all kinds take, and one argument a field of the kind's configuration: the first is SOURCE."""
    source, *names = config_type.model_fields
    fields = config_type.model_fields
    command.add_argument(source, metavar="SOURCE", help=_help(fields[source].description))
    command.add_argument("--out", required=True, metavar="STORE", help="folder to make; must not exist, or be empty")
    command.add_argument("--download", action="store_true", help="fetch the whole data set into SOURCE first")
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
            keywords |= {"metavar": name.upper(), "type": _type_of(field), "required": field.is_required()}
        command.add_argument(_flag(name), **keywords)


def _refuse(parser: argparse.ArgumentParser, kind: str, unknown: str) -> NoReturn:
    flags = [
        "--out",
        "--download",
        "--format",
        "--dtype",
        *(_flag(name) for name in [*READERS[kind].config_type().model_fields][1:]),
    ]
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


def _type_of(field: FieldInfo) -> Callable[[str], int | float | str]:
    """Return what to make of an option's text: a path such as 2017 stays one."""
    return str if field.annotation in (str, str | None) else _number_or_text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, got {number}")
    return number


def _number_or_text(text: str) -> int | float | str:
    """Return a number where the text is one: pydantic's `Literal[100, 500]` takes no text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _print_progress(title: str, unit: str) -> Report:
    """Return a callback that prints a line whenever another tenth is done."""
    tenths = 0

    def report(done: int, total: int, amount: int) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            print(f"{title}: {done * 100 // total} %, {amount:,} {unit}", file=sys.stderr)

    return report


if __name__ == "__main__":
    sys.exit(main())
