"""Run a sweep: `python -m platform.sweep SPEC.yaml`.

Exit codes: 0 done, 1 no trial completed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from platform.chains.chain import ChainRequest, run_chain
from platform.chains.stage import StageOfChain
from platform.chains.stages import is_chain
from platform.cluster import default_address
from platform.command_line import BAD_INPUT, INTERRUPTED
from platform.search.dry_run import dry_run_text
from platform.specs.spec import Spec
from platform.specs.storage import runs_folder
from platform.sweep_request import Request, read_request
from platform.sweep_run import DONE, prepare
from platform.sweeps.sender import NotSent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    try:
        return _run(options)
    except NotSent as error:
        print(f"error: {error}", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    with ExitStack() as resources:
        try:
            if is_chain(options.spec, options.set):
                chain = _chain_request(options)
                return run_chain(chain, partial(_run_stage, chain.runs, options.address), resources)
            if options.stage is not None:
                raise ValueError(f"--stage {options.stage}: {options.spec} has no stages; leave out --stage")
            spec, request = read_request(options)
            if options.dry_run:
                print(dry_run_text(spec))
                return DONE
            sweep = prepare(spec, request, resources)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        return sweep.run()


def _chain_request(options: argparse.Namespace) -> ChainRequest:
    return ChainRequest(
        spec=options.spec,
        overrides=tuple(options.set),
        resume=options.resume,
        accept_changes=options.accept_changes,
        runs=runs_folder(options.spec, options.set, options.runs),
        stage=options.stage,
        dry_run=options.dry_run,
        address=options.address,
    )


def _run_stage(runs: Path, address: str, spec: Spec, stage: StageOfChain) -> int:
    """Run a sweep that is a stage of a chain, or go on with it.

    Raises:
        ValueError, OSError: bad input.
    """
    request = Request(stage.spec, stage.overrides, stage.begun, stage.accept_changes, runs, address, stage)
    with ExitStack() as resources:
        return prepare(spec, request, resources).run()


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m platform.sweep", description=__doc__)
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the search space; see docs/spec.md")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any key of the spec")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and start nothing")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="runs/NAME",
        help="go on with the newest sweep of the spec, or this one",
    )
    parser.add_argument("--stage", metavar="NAME", help="of a chain: run this stage alone")
    parser.add_argument("--accept-changes", action="store_true", help="resume though space, data or code have changed")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="where the sweeps' folders are, counted from the spec's storage where it has one (default: runs)",
    )
    parser.add_argument(
        "--address",
        default=default_address(),
        metavar="auto|HOST:PORT",
        help="join this Ray cluster (default: $RAY_ADDRESS, or one of this command's own on this machine)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        print("stopped; a sweep that had begun goes on with the same command and --resume", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
