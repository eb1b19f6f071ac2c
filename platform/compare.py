"""Compare finished sweeps, of any methods, on the test fold of one store.

    python -m platform.compare RUN RUN ... [--metric auroc] [--out FOLDER]
    python -m platform.compare --experiment NAME [--uri URI] [--runs runs] [--metric auroc] [--out FOLDER]

Every sweep's best model is compared with that of the first RUN, or of the experiment's earliest sweep. Prints the
leaderboard, and writes comparison.csv and comparison.html. No test fold is looked at again: the answers are those that
each sweep kept when it was tested.
Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from data.store_folder import check_free
from platform.command_line import BAD_INPUT, OneLineParser, one_line
from platform.evaluation.comparison import Contender, Standing, compare, read_contender, to_table
from platform.evaluation.comparison_page import render_comparison, terminal_table
from platform.specs.sections import TrackingSpec
from platform.sweeps.folder import git_commit, new_folder, versions
from platform.sweeps.journal import FILE_NAME as JOURNAL_NAME

COMPARISONS = "comparisons"  # folder beside the sweeps'
PLAIN_WIDTH = 240  # columns, where the output is no terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse_arguments(arguments)
    try:
        if options.out is not None:
            check_free(options.out)
        contenders = [read_contender(folder) for folder in _folders(options)]
        metric = options.metric or _default_metric(contenders[0])
        standings = compare(contenders, metric)
        folder = _write(
            options.out, contenders, standings, metric, f"python -m platform.compare {shlex.join(arguments)}"
        )
    except (ValueError, OSError) as error:
        print(f"platform.compare: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    console = Console()
    (console if console.is_terminal else Console(width=PLAIN_WIDTH)).print(terminal_table(standings, metric))
    print(f"  {folder}/comparison.html")
    return 0


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="platform.compare", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs_named", nargs="*", metavar="RUN", type=Path, help="a sweep's folder; two at least")
    parser.add_argument("--experiment", metavar="NAME", help="all finished sweeps of an MLflow experiment")
    default = TrackingSpec().uri
    parser.add_argument("--uri", metavar="URI", default=default, help=f"MLflow's store, for --experiment ({default})")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where an experiment's sweeps are (runs)")
    parser.add_argument("--metric", metavar="NAME", help="test metric (auroc; r2 for regression)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help=f"folder to make (runs/{COMPARISONS}/METRIC-001)")
    options = parser.parse_args(arguments)
    if bool(options.runs_named) == bool(options.experiment):
        parser.error("name sweeps (RUN RUN ...) or an --experiment, and not both")
    return options


def _folders(options: argparse.Namespace) -> list[Path]:
    """Return the sweeps to compare, the one that the others are compared with first.

    Raises:
        ValueError: there are fewer than two, or one twice.
    """
    folders = options.runs_named or list(experiment_sweeps(options.uri, options.experiment, options.runs))
    if len(folders) < 2:
        found = f"--experiment {options.experiment} has {len(folders)}" if options.experiment else f"got {len(folders)}"
        raise ValueError(f"a comparison needs two finished sweeps at least, but {found}")
    resolved = [folder.resolve() for folder in folders]
    twice = next((folder for folder in folders if resolved.count(folder.resolve()) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice; name each sweep once")
    return list(folders)


def experiment_sweeps(uri: str, experiment: str, runs: Path) -> Iterator[Path]:
    """Yield the folders of an MLflow experiment's finished sweeps, the earliest first.

    Args:
        runs: where the sweeps' folders are; MLflow knows their names only.

    Raises:
        ValueError: there is no such experiment, or a sweep's folder is not in `runs`.
    """
    from platform.mlflow_views.sweeps import finished_sweeps  # MLflow takes seconds to import

    for sweep in finished_sweeps(uri, experiment):
        if not (runs / sweep / JOURNAL_NAME).exists():
            raise ValueError(f"{runs} has no sweep {sweep}; say with --runs where the experiment's sweeps are")
        yield runs / sweep


def _default_metric(first: Contender) -> str:
    return "r2" if first.data.label_set.task == "regression" else "auroc"


def _write(
    out: Path | None, contenders: Sequence[Contender], standings: Sequence[Standing], metric: str, command: str
) -> Path:
    """Write the table and the page into a new folder, and return it."""
    first = contenders[0]
    header = {
        "store": first.data.config.store,
        "fingerprint": first.data.fingerprint,
        "labels": first.data.label_set.name,
        "test folds": ", ".join(map(str, first.data.folds["test"])),
        "test records": f"{len(first.record_ids):,}",
        "git commit": git_commit(),
        "versions": versions(),
    }
    html = render_comparison(standings, metric, header, command)
    if out is None:
        folder = new_folder(first.folder.parent / COMPARISONS, metric)
    else:
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
    to_table(standings, metric).to_csv(folder / "comparison.csv", index=False)
    (folder / "comparison.html").write_text(html, encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(main())
