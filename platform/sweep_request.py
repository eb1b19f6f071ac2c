"""What the command line asks of a sweep: a new one, or to go on with one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from data.bucket import fetch, uri_of
from platform.chains.stage import StageOfChain
from platform.cluster import LOCAL
from platform.specs.file import read_spec_file
from platform.specs.spec import Spec, parse_spec
from platform.specs.storage import root_of, runs_folder
from platform.sweeps.folder import (
    kept_defaults,
    newest_folder,
    read_identity,
)
from platform.sweeps.sender import bring, bring_journals


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    spec: Path
    overrides: tuple[str, ...]
    resume: Path | None  # a sweep's folder
    accept_changes: bool
    runs: Path
    address: str  # of the Ray cluster
    stage: StageOfChain | None = None

    @property
    def is_elastic(self) -> bool:
        """Whether nodes may join the cluster as the sweep runs."""
        return self.address != LOCAL

    @property
    def place(self) -> Path:
        """The folder that has, or will have, the sweep's."""
        return self.runs if self.stage is None else self.stage.folder.parent

    @property
    def command(self) -> str:
        """The command that this is, but for where it resumes."""
        overrides = "".join(f" --set {override}" for override in self.overrides)
        return f"python -m platform.sweep {self.spec}{overrides}"

    def resume_command(self, folder: Path) -> str:
        if self.stage is not None:
            return self.stage.resume_command
        return f"python -m platform.sweep {self.spec} --resume {uri_of(folder) or folder}"


def read_request(options: argparse.Namespace) -> tuple[Spec, Request]:
    """Parse the spec; a resume keeps the overrides that its sweep began with."""
    overrides = tuple(options.set)
    folder, runs = None, runs_folder(options.spec, overrides, options.runs)
    if uri_of(runs):
        bring_journals(runs, parse_spec(options.spec, overrides).name)
    if options.resume is not None:
        if options.resume:
            folder = root_of(options.resume)
        else:
            folder = newest_folder(runs, parse_spec(options.spec, overrides).name)
        bring(folder)
        identity, earlier = read_identity(folder)
        overrides = (*earlier, *overrides)
        given = read_spec_file(options.spec, overrides).values.get("search", {})
        kept = [f"search.{key}={value}" for key, value in kept_defaults(given, identity).items()]
        spec = parse_spec(options.spec, (*overrides, *kept))
    else:
        spec = parse_spec(options.spec, overrides)
    fetch(Path(spec.data.store))
    return spec, Request(options.spec, overrides, folder, options.accept_changes, runs, options.address)
