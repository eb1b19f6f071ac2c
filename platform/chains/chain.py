"""A chain at work: its stages one after the other, each in a folder of its own, taken up at any point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.loading import describe
from platform.chains.report import write_chain_report
from platform.chains.stage import StageOfChain
from platform.chains.stages import Base, Chain, Reference, Stage, chain_tracking, describe_inputs, parse_chain
from platform.chains.step_stage import run_step
from platform.cluster import ray_cluster
from platform.command_line import INTERRUPTED
from platform.mlflow_views.mirror import Target
from platform.models.artefacts import StageSpec, artefact_paths, content_hash
from platform.models.trained_model import read_trained_model
from platform.search.dry_run import chain_dry_run_text
from platform.specs.search_space import flatten
from platform.specs.spec import Spec
from platform.specs.step import StepSpec
from platform.sweeps.checkpoints import rank
from platform.sweeps.folder import (
    code_hash,
    git_commit,
    kept_defaults,
    locked,
    new_folder,
    newest_folder,
    read_identity,
    versions,
)
from platform.sweeps.journal import FILE_NAME as JOURNAL_NAME
from platform.sweeps.journal import Journal, read_events, replay
from platform.sweeps.leaderboard import RANKED
from platform.tracking import UNREACHABLE, Outbox, prepare_mlflow

DONE = 0
RunSweep = Callable[[Spec, StageOfChain], int]


@dataclass(frozen=True)
class ChainRequest:
    """What the command line asks for.

    Attributes:
        resume: a chain's folder, empty for the newest one of the spec; None: a new chain.
        stage: this one alone.
    """

    spec: Path
    overrides: tuple[str, ...]
    resume: str | None
    accept_changes: bool
    runs: Path
    stage: str | None
    dry_run: bool
    address: str  # of the Ray cluster


def run_chain(request: ChainRequest, run_sweep: RunSweep, resources: ExitStack) -> int:
    """Run a chain, or go on with one; return an exit code.

    Args:
        run_sweep: runs a stage that is a sweep, in its folder.

    Raises:
        ValueError, OSError: bad input; nothing was written, or a stage's input is not what it was.
    """
    folder, overrides = None, request.overrides
    if request.resume is not None:
        name = parse_chain(request.spec, overrides).name
        folder = Path(request.resume) if request.resume else newest_folder(request.runs, name)
        identity, earlier = read_identity(folder)
        if identity.spec:
            raise ValueError(f"--resume {folder} is a sweep's folder, not a chain's; name the folder that it lies in")
        overrides = (*earlier, *overrides)
    chain = parse_chain(request.spec, overrides)
    stages = chain.stages if request.stage is None else (chain.stage(request.stage),)
    for stage in stages:
        spec = chain.previews[stage.name]
        if not (request.dry_run and _lacks_store(spec)):  # which its text says
            _check_data(stage, spec)
    if request.dry_run:
        print(chain_dry_run_text({stage.name: chain.previews[stage.name] for stage in stages}))
        return DONE
    if folder is None:
        _check_given(request, stages)
        folder = new_folder(request.runs, chain.name)
    resources.enter_context(locked(folder))
    resources.enter_context(ray_cluster(request.address))
    return _ChainRun(chain, stages, folder, request, overrides, run_sweep).run()


def _lacks_store(spec: StageSpec) -> bool:
    return spec.data.synthetic is None and not Path(spec.data.store).exists()


def _check_data(stage: Stage, spec: StageSpec) -> None:
    """Check a stage's data before anything starts, unless an earlier stage is to make them.

    Raises:
        ValueError: they don't fit the stage.
    """
    if any(reference.path[0] == "data" for reference in stage.references):
        return
    description = describe(spec.data)
    if isinstance(spec, Spec):
        spec.check_quantities(description.label_set.task)


def _check_given(request: ChainRequest, stages: tuple[Stage, ...]) -> None:
    """Refuse a stage alone, in a new folder, whose inputs no one has made."""
    if request.stage is None or not stages[0].needs:
        return
    reference = stages[0].needs[0]
    key = f"stages.{stages[0].name}.{'.'.join(map(str, reference.path))}"
    raise ValueError(
        f"--stage {request.stage} needs {reference.text}; add --resume runs/NAME of a chain that has it, or give it: "
        f"--set {key}=..."
    )


class _ChainRun:
    """One process's work on a chain."""

    def __init__(
        self,
        chain: Chain,
        stages: tuple[Stage, ...],
        folder: Path,
        request: ChainRequest,
        overrides: tuple[str, ...],
        run_sweep: RunSweep,
    ) -> None:
        self.chain, self.stages, self.folder = chain, stages, folder
        self.request, self.overrides, self._run_sweep = request, overrides, run_sweep
        self.record = replay(read_events(folder))
        self.journal = Journal(folder)
        self._hashes: dict[Path, str] = {}

    def run(self) -> int:
        is_closed = False
        try:
            self._open()
            reason, code = self._run_stages()
            self._close(reason)
            is_closed = True
        finally:  # a stage was refused, or the process is to end: no run is left RUNNING
            if not is_closed:
                self._close("interrupted")
            self.journal.close()
        self._print_end(reason)
        return code

    def _run_stages(self) -> tuple[str, int]:
        """Return how the chain's process ends, and its exit code."""
        for stage in self.stages:
            code = self._run_stage(stage)
            self._report()
            if code != DONE:
                return "interrupted" if code == INTERRUPTED else "failed", code
        return "done" if all(self._is_done(stage.name) for stage in self.chain.stages) else "interrupted", DONE

    def _open(self) -> None:
        self.record.apply(
            self.journal.append(
                "opened",
                name=self.chain.name,
                resumed=bool(self.record.opened),
                spec={},
                fingerprint="",
                code=code_hash(),
                overrides=self.overrides,
                git_commit=git_commit(),
                versions=versions(),
                command=self._command,
            )
        )
        text = Path(self.chain.file.name).read_text(encoding="utf-8")
        (self.folder / "spec.yaml").write_text(text, encoding="utf-8")
        self._send()

    @property
    def _command(self) -> str:
        return f"python -m platform.sweep {self.request.spec}" + "".join(f" --set {each}" for each in self.overrides)

    @property
    def _opened_s(self) -> float:
        return self.record.sessions[0][0]

    def _close(self, reason: str) -> None:
        self.record.apply(self.journal.append("closed", reason=reason, metrics=self._totals()))
        self._send()

    def _print_end(self, reason: str) -> None:
        n_done = sum(self._is_done(stage.name) for stage in self.chain.stages)
        print(f"chain {self.folder.name}: {n_done} of {len(self.chain.stages)} stages are done")
        print(f"  report       {self.folder}/report.html")
        if reason != "done":
            print(f"  go on with   python -m platform.sweep {self.request.spec} --resume {self.folder}")

    # ------------------------------------------------------------------ stages

    def _run_stage(self, stage: Stage) -> int:
        """Run a stage, or go on with it; one that has come to its end with the same spec is left as it is."""
        places = {reference: self._place(stage, reference) for reference in stage.needs}
        inputs = describe_inputs(stage, {reference: self._hash(path) for reference, path in places.items()})
        spec = self.chain.spec(self._with_kept_defaults(stage), places.__getitem__, self._base(stage, places))
        folder = self.folder / stage.name
        if self._is_done(stage.name) and read_identity(folder)[0].spec == {**spec.flat(), **inputs}:
            print(f"stage {stage.name} is done")
            return DONE
        print(f"stage {stage.name}")
        self._write_stage(stage.name, "started", inputs)
        context = StageOfChain(
            name=stage.name,
            folder=folder,
            spec=self.request.spec,
            overrides=self.overrides,
            inputs=inputs,
            opened_s=self._opened_s,
            accept_changes=self.request.accept_changes,
        )
        code = run_step(spec, context) if isinstance(spec, StepSpec) else self._run_sweep(spec, context)
        if code == DONE:
            left = artefact_paths(folder)
            self._write_stage(
                stage.name, "ended", {name: f"sha256:{content_hash(path)}" for name, path in left.items()}
            )
        return code

    def _write_stage(self, name: str, state: str, artefacts: Mapping[str, str]) -> None:
        event = self.journal.append("stage", stage=name, state=state, artefacts=dict(artefacts))
        self.record.apply(event)

    def _is_done(self, name: str) -> bool:
        folder = self.folder / name
        if not (folder / JOURNAL_NAME).exists():
            return False
        record = replay(read_events(folder))
        return record.is_done and any(trial.state in RANKED for trial in record.trials.values())

    def _place(self, stage: Stage, reference: Reference) -> Path:
        """Return where an input lies.

        Raises:
            ValueError: its stage has not come to its end, or has not left it.
        """
        path = artefact_paths(self.folder / reference.stage).get(reference.artefact)
        if path is None or not self._is_done(reference.stage):
            raise ValueError(
                f"stage {stage.name} needs {reference.text}, which is not in {self.folder}; run stage "
                f"{reference.stage} first: --resume {self.folder} --stage {reference.stage}"
            )
        return path

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = content_hash(path)
        return self._hashes[path]

    def _base(self, stage: Stage, places: Mapping[Reference, Path]) -> Base | None:
        """Return the best trial that `from` names: where the stage wants another `model`, the best one of that."""
        if stage.base is None:
            return None
        card = read_trained_model(places[stage.base]).card
        maker = self.chain.previews[stage.base.stage]
        assert isinstance(maker, Spec), "checked before"
        own = flatten(stage.values.get("params", {}))
        named = {name: own[name] for name in maker.space.names if isinstance(own.get(name), str)}
        ranked = rank(replay(read_events(self.folder / stage.base.stage)), maker.objectives)
        return Base(card.method, best_with(named, card.params, [trial.params for trial in ranked]))

    def _with_kept_defaults(self, stage: Stage) -> Stage:
        """Keep the sampler's defaults of a stage that goes on with a larger budget."""
        folder = self.folder / stage.name
        if "step" in stage.values or not (folder / JOURNAL_NAME).exists():
            return stage
        search = stage.values.get("search", {})
        kept = kept_defaults(search, read_identity(folder)[0])
        values = {**stage.values, "search": {**search, **kept}} if kept else stage.values
        return Stage(stage.name, values, stage.base, stage.references)

    # ------------------------------------------------------------------ report and tracking

    def _totals(self) -> dict[str, float]:
        records = [replay(read_events(self.folder / stage.name)) for stage in self.chain.stages]
        return {
            "stages": sum(self._is_done(stage.name) for stage in self.chain.stages),
            "trials": sum(len(record.trials) for record in records),
            "epochs": sum(record.epochs for record in records),
        }

    def _report(self) -> None:
        write_chain_report(self.folder, self.chain, self._command)

    def _send(self) -> None:
        """Tell MLflow of the chain itself; its stages have trackers of their own, which wait for the chain's run."""
        prepare_mlflow()
        tracking = chain_tracking(self.chain.file)
        spec = next(iter(self.chain.previews.values()))
        tags = {"stage": "chain", "git_commit": git_commit(), "versions": versions()}
        params = {f"stages.{name}": _kind(each) for name, each in self.chain.previews.items()}
        outbox = Outbox(self.folder, Target(spec.tracking.uri, tracking["experiment"], self.folder.name, tags, params))
        try:
            outbox.send()
        except UNREACHABLE as error:
            reason = str(error).strip().splitlines()[0]
            print(f"MLflow has not heard of the chain: {reason}")
            print(f"  tell it later:  python -m platform.tracking {self.folder}")
        finally:
            outbox.release()


def best_with(
    named: Mapping[str, str], best: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the best trial's parameters, or those of the first of `ranked` with the names that are asked for.

    A learning rate belongs to its architecture: who names another one wants the one that was good for that.
    """
    candidates = (params for params in (best, *ranked) if named.items() <= params.items())
    return next(candidates, best)


def _kind(spec: StageSpec) -> str:
    return f"step {spec.step}" if isinstance(spec, StepSpec) else f"method {spec.method}"
