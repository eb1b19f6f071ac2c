"""A chain: a spec whose stages are sweeps, training runs and data steps, and take what earlier ones have left."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ValidationError

from data.bucket import SCHEME
from platform.models.artefacts import OF_SWEEPS, StageSpec, artefact_names
from platform.specs.error import KeyPath, faults, key_text
from platform.specs.file import SpecFile, read_spec_file
from platform.specs.search_space import SpaceError, flatten, nearest
from platform.specs.spec import Spec
from platform.specs.step import StepSpec
from trainables.method import nest
from trainables.methods import METHODS

STAGES: Final = "stages"
OF_THE_CHAIN: Final = ("name", "storage", "tracking", STAGES)
DEFAULTS: Final = tuple(key for key in Spec.model_fields if key not in (*OF_THE_CHAIN, "method", "params"))
OF_A_STAGE: Final = (*DEFAULTS, "method", "params", "from", "step", "select")
OF_STEPS: Final = ("seed", "data", "step", "params", "select")
NOT_INHERITED: Final = ("epochs",)  # the stage's own budget decides
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAKEN: Final = ("lock",)  # files of the chain's folder


@dataclass(frozen=True)
class Reference:
    """`{from: STAGE.ARTEFACT}` in a stage, or `from: STAGE.best` of it. `path` counts from the stage."""

    path: KeyPath
    stage: str
    artefact: str

    @property
    def text(self) -> str:
        return f"{self.stage}.{self.artefact}"


@dataclass(frozen=True)
class Stage:
    """One stage as it is written, the chain's defaults filled in, its references not yet followed.

    Attributes:
        base: the stage whose best trial gives method and parameters.
        references: to artefacts, in `params` and `data`.
    """

    name: str
    values: Mapping[str, Any]
    base: Reference | None
    references: tuple[Reference, ...]

    @property
    def needs(self) -> list[Reference]:
        """Everything that the stage takes from others."""
        return [*([self.base] if self.base is not None else []), *self.references]


@dataclass(frozen=True)
class Base:
    """What a stage takes over from another's best trial."""

    method: str
    params: Mapping[str, Any]  # dotted keys


@dataclass(frozen=True)
class Chain:
    """A chain that was checked.

    Attributes:
        stages: in the order in which they run.
        previews: each stage's spec, made with stand-ins for what earlier stages have yet to find.
    """

    name: str
    file: SpecFile
    stages: tuple[Stage, ...]
    previews: Mapping[str, StageSpec]

    def stage(self, name: str) -> Stage:
        """Return a stage by name.

        Raises:
            ValueError: there is none of that name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        near = nearest(name, names)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"--stage: {self.file.name} has no stage {name!r}; it has {', '.join(names)}{hint}")

    def spec(self, stage: Stage, place: Callable[[Reference], Path], base: Base | None) -> StageSpec:
        """Return a stage's spec, with the paths of its inputs and the parameters that it takes over.

        Raises:
            SpecError: what was found breaks a rule.
        """
        return _stage_spec(self.file, stage, lambda reference: str(place(reference)), base)


def is_chain(path: Path, overrides: Sequence[str] = ()) -> bool:
    """Tell whether a spec file describes a chain.

    Raises:
        SpecError: it can't be read.
    """
    return STAGES in read_spec_file(path, overrides).values


def parse_chain(path: Path, overrides: Sequence[str] = ()) -> Chain:
    """Read a chain, and check every stage, reference and order before anything starts.

    Raises:
        SpecError: one line, as `platform.specs.spec.parse_spec`.
    """
    file = read_spec_file(path, overrides)
    _check_top(file)
    stages = _in_order(file, [_stage(file, name) for name in file.values[STAGES]])
    previews: dict[str, StageSpec] = {}
    for stage in stages:
        for reference in stage.needs:
            _check_artefact(file, stage, reference, previews[reference.stage])
        previews[stage.name] = _preview(file, stage, previews)
    return Chain(file.values["name"], file, tuple(stages), previews)


def _check_top(file: SpecFile) -> None:
    known = [*OF_THE_CHAIN, *DEFAULTS]
    for key in file.values:
        if key in ("method", "params"):
            raise file.error((key,), f"stands in each stage of a chain, stages.NAME.{key}")
        if key not in known:
            raise file.error((key,), "unknown key", nearest(str(key), known))
    if "name" not in file.values:
        raise file.error(("name",), "required, but not given")
    if str(file.values.get("storage")).startswith(SCHEME):
        raise file.error(
            ("storage",), "a chain's stages hand files on: name a folder that every node has; a bucket is for a sweep"
        )
    stages = file.values[STAGES]
    if not isinstance(stages, dict) or not stages:
        raise file.error((STAGES,), f"must be a mapping of names to stages, with one at least; got {stages!r}")
    for name in stages:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
            raise file.error(
                (STAGES, name), f"a stage's name is of letters, digits, _ and -, and not lock; got {name!r}"
            )


def _stage(file: SpecFile, name: str) -> Stage:
    own = file.values[STAGES][name]
    if not isinstance(own, dict):
        raise file.error((STAGES, name), f"must be a mapping of keys; got {own!r}")
    for key in own:
        if key in ("name", "storage", "tracking"):
            raise file.error((STAGES, name, key), "stands outside the stages alone: a chain is one tree of runs")
        if key not in OF_A_STAGE:
            raise file.error((STAGES, name, key), "unknown key", nearest(str(key), list(OF_A_STAGE)))
    _check_kind(file, name, own)
    values = _with_defaults(file.values, own)
    base = _base(file, name, values.pop("from", None))
    places = [reference for key in ("params", "data") for reference in _references(file, name, values.get(key), (key,))]
    return Stage(name, values, base, tuple(places))


def _check_kind(file: SpecFile, name: str, own: Mapping[str, Any]) -> None:
    kinds = [key for key in ("method", "step", "from") if own.get(key) is not None]
    if not kinds:
        raise file.error((STAGES, name), "needs a method, a step, or from: STAGE.best; got none of them")
    if "step" in kinds:
        for key in own:
            if own[key] is not None and key not in OF_STEPS:
                raise file.error(
                    (STAGES, name, key), f"has no meaning for a data step, which takes {', '.join(OF_STEPS)}"
                )
    elif own.get("select") is not None:
        raise file.error((STAGES, name, "select"), "is a data step's; a sweep selects by search.metric")


def _with_defaults(chain: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Fill a stage with the chain's sections, key by key; null stands for a section's own default."""
    usable = OF_STEPS if own.get("step") is not None else DEFAULTS
    values = {key: value for key, value in chain.items() if key in usable and key in DEFAULTS}
    values |= {key: _merged(values.get(key), value) for key, value in own.items()}
    return {key: value for key, value in values.items() if value is not None}


def _merged(default: Any, own: Any) -> Any:
    if not isinstance(default, dict) or not isinstance(own, dict):
        return own
    return {key: value for key, value in {**default, **own}.items() if value is not None or key not in default}


# ------------------------------------------------------------------ references


def _base(file: SpecFile, name: str, value: Any) -> Reference | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise file.error((STAGES, name, "from"), f"must name a stage, as in `from: teacher.best`; got {value!r}")
    stage, _, artefact = value.partition(".")
    if artefact not in ("", "best"):
        rule = f"takes a stage's best trial, `from: {stage}.best`; artefacts stand in params; got {value!r}"
        raise file.error((STAGES, name, "from"), rule)
    return Reference(("from",), stage, "best")


def _references(file: SpecFile, name: str, value: Any, path: KeyPath) -> Iterator[Reference]:
    """Yield the references below a value."""
    if isinstance(value, dict) and "from" in value:
        text = value["from"]
        if len(value) > 1 or not isinstance(text, str) or "." not in text:
            raise file.error((STAGES, name, *path), f"must be {{from: STAGE.ARTEFACT}} alone; got {value!r}")
        stage, _, artefact = text.partition(".")
        yield Reference(path, stage, artefact)
        return
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _references(file, name, item, (*path, key))


def _in_order(file: SpecFile, stages: list[Stage]) -> list[Stage]:
    """Return the stages in the order of the file, but for those that wait for a later one."""
    names = [stage.name for stage in stages]
    for stage in stages:
        for reference in stage.needs:
            if reference.stage not in names:
                rule = f"no stage {reference.stage!r}; there are {', '.join(names)}"
                raise file.error(_place(stage, reference), rule, nearest(reference.stage, names))
    ordered: list[Stage] = []
    while len(ordered) < len(stages):
        done = {stage.name for stage in ordered}
        waiting = [stage for stage in stages if stage.name not in done]
        ready = next((stage for stage in waiting if all(each.stage in done for each in stage.needs)), None)
        if ready is None:
            first = waiting[0]
            reference = next(each for each in first.needs if each.stage not in done)
            circle = ", ".join(stage.name for stage in waiting)
            raise file.error(_place(first, reference), f"stages wait for one another: {circle}; break the circle")
        ordered.append(ready)
    return ordered


def _check_artefact(file: SpecFile, stage: Stage, reference: Reference, maker: StageSpec) -> None:
    names = artefact_names(maker)
    if reference is stage.base:
        if isinstance(maker, StepSpec):
            raise file.error(_place(stage, reference), f"{reference.stage} is a data step, which has no best trial")
    elif reference.artefact not in names:
        rule = f"stage {reference.stage} leaves no {reference.artefact!r}, but {', '.join(names)}"
        raise file.error(_place(stage, reference), rule, nearest(reference.artefact, names))


def _place(stage: Stage, reference: Reference) -> KeyPath:
    return (STAGES, stage.name, *reference.path)


# ------------------------------------------------------------------ a stage's spec


def _preview(file: SpecFile, stage: Stage, earlier: Mapping[str, StageSpec]) -> StageSpec:
    """Make a stage's spec with stand-ins: a path that is not there yet, any configuration that may become the best."""
    base = None
    if stage.base is not None:
        maker = earlier[stage.base.stage]
        assert isinstance(maker, Spec), "checked before"
        point = maker.space.sample(np.random.default_rng(maker.seed))
        base = Base(maker.method, maker.flat_params(point))
    return _stage_spec(file, stage, _stand_in, base)


def _stand_in(reference: Reference) -> str:
    return f"{reference.stage}/{OF_SWEEPS.get(reference.artefact, reference.artefact)}"


def chain_tracking(file: SpecFile) -> dict[str, Any]:
    """Return the `tracking` of every stage: one experiment, by default named after the first store."""
    first = next(iter(file.values[STAGES].values()))
    sections = [each.get("data") for each in (file.values, first)]
    stores = [section.get("store") for section in sections if isinstance(section, dict)]
    experiment = next((Path(store).name for store in stores if isinstance(store, str)), file.values["name"])
    given = file.values.get("tracking", {})
    return {"experiment": experiment, **given} if isinstance(given, dict) else given


def _stage_spec(file: SpecFile, stage: Stage, place: Callable[[Reference], str], base: Base | None) -> StageSpec:
    values = dict(stage.values)
    for reference in stage.references:
        key = str(reference.path[0])
        values[key] = _replaced(values[key], reference.path[1:], place(reference))
    if base is not None:
        values |= _taken_over(file, stage, values, base)
    values |= {"name": stage.name, "tracking": chain_tracking(file)}
    if "storage" in file.values:
        values["storage"] = file.values["storage"]
    model: type[Spec] | type[StepSpec] = StepSpec if "step" in values else Spec
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _error(file, stage, error, model, values) from None


def _replaced(value: Any, path: KeyPath, new: Any) -> Any:
    """Return a copy of nested values with `new` at a path."""
    if not path:
        return new
    if isinstance(value, list):
        return [_replaced(item, path[1:], new) if index == path[0] else item for index, item in enumerate(value)]
    return {key: _replaced(item, path[1:], new) if key == path[0] else item for key, item in value.items()}


def _taken_over(file: SpecFile, stage: Stage, values: Mapping[str, Any], base: Base) -> dict[str, Any]:
    """Return the method and the parameters of a stage that starts from another's best trial."""
    if values.get("method", base.method) != base.method:
        rule = f"is that of the stage that it starts from, {base.method}; leave out method, or from"
        raise file.error((STAGES, stage.name, "method"), rule)
    try:
        own = flatten(values.get("params", {}))
    except SpaceError as error:
        raise file.error((STAGES, stage.name, "params", *error.path), error.rule, error.suggestion) from None
    sections = {name.split(".")[0] for name in own}
    config = METHODS[base.method].config
    dependent = {name for name, (governor, _) in config.governed.items() if governor in sections}
    defaults = {name: field.default for name, field in config.model_fields.items()}
    taken = {
        name: value
        for name, value in base.params.items()
        if name.split(".")[0] not in sections | dependent
        and name not in NOT_INHERITED
        and not (name in defaults and value == defaults[name])
    }
    return {"method": base.method, "params": nest({**taken, **own})}


def _error(
    file: SpecFile, stage: Stage, error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]
) -> Exception:
    fault = max(faults(error, model, values), key=lambda each: (each.rule == "unknown key", len(each.path)))
    here: KeyPath = (STAGES, stage.name, *fault.path)
    is_default = here not in file.places and fault.path in file.places
    if is_default:
        return file.error(fault.path, f"{fault.rule} (of stage {stage.name})", fault.suggestion)
    return file.error(here, fault.rule, fault.suggestion)


def describe_inputs(stage: Stage, hashes: Mapping[Reference, str]) -> dict[str, str]:
    """Return what a stage was given, by key: `inputs.params.weights` -> `teacher.best.weights sha256:...`."""
    return {
        f"inputs.{key_text(reference.path)}": f"{reference.text} sha256:{hashes[reference]}"
        for reference in stage.needs
    }
