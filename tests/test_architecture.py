"""What may import what, and what may travel: read from the sources and from the pickles themselves."""

from __future__ import annotations

import ast
import functools
import pickletools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from data import ingest, materialisation, parallel
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.decisions import Decisions
from trainables.methods import METHODS
from trainables.tune_trial import TrialSetup, build_trainable

ROOT = Path(__file__).parents[1]
PACKAGES = ("platform", "trainables", "data")
LAYER = {name: layer for layer, name in enumerate(PACKAGES)}  # imports go to the same layer or a later one
MAY_IMPORT_RAY = {"trainables/tune_trial.py", "trainables/worker_group.py", "trainables/decisions.py"}
BROAD = {"BaseException", "Exception"}
BOUNDARIES = {
    "data/wfdb_record.py": 1,  # wfdb documents no error: a broken header makes it trip over whatever comes first
    "platform/chains/step_stage.py": 1,  # a point at which a data step fails is a FAILED one
    "platform/search/study.py": 1,  # a configuration whose model cannot be built is a FAILED trial
    "platform/sweep_run.py": 1,  # whatever ends the process: the journal is closed, and it is raised again
    "trainables/tune_trial.py": 1,  # the trial's boundary
}


def sources(*packages: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for name in packages for path in sorted((ROOT / name).rglob("*.py"))]


@functools.cache
def tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def imports(source: str, *, with_type_checking: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports, inside functions too."""
    module = tree(source)
    skipped: set[ast.AST] = set()
    if not with_type_checking:
        blocks = [
            node for node in ast.walk(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        skipped = {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}
    for node in ast.walk(module):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            assert node.module is not None
            yield node.module


def top(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def is_ours(module: str) -> bool:
    """`platform` alone is the standard library's module; its submodules are the project's."""
    return module.startswith("platform.") or top(module) in ("trainables", "data")


@pytest.mark.parametrize("source", sources(*PACKAGES))
def test_imports_run_one_way(source: str) -> None:
    layer = LAYER[top(source.replace("/", "."))]
    upwards = [m for m in imports(source, with_type_checking=True) if is_ours(m) and LAYER[top(m)] < layer]
    assert upwards == []


@pytest.mark.parametrize("source", sources("data"))
def test_data_knows_neither_torch_nor_tune_nor_tracking(source: str) -> None:
    banned = {"torch", "torchmetrics", "transformers", "mlflow", "optuna"}
    found = [m for m in imports(source) if top(m) in banned or m.startswith(("ray.tune", "ray.train"))]
    assert found == []


@pytest.mark.parametrize("source", sources("trainables"))
def test_methods_know_neither_ray_nor_tracking_nor_search(source: str) -> None:
    banned = {"mlflow", "optuna"} | (set() if source in MAY_IMPORT_RAY else {"ray"})
    assert [m for m in imports(source) if top(m) in banned] == []


def test_the_three_files_that_may_import_ray_are_there() -> None:
    assert set(sources("trainables")) >= MAY_IMPORT_RAY


def callers(*functions: str) -> set[str]:
    """Return the files that call one of `functions`."""
    return {
        source
        for source in sources(*PACKAGES)
        for node in ast.walk(tree(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in functions
    }


def test_only_the_runner_builds_a_tuner_and_only_the_cluster_and_ingestion_start_ray() -> None:
    assert callers("tune.Tuner", "ray.tune.Tuner", "Tuner") == {"platform/search/runner.py"}
    assert callers("ray.init") == {"platform/cluster.py", "data/parallel.py"}


def test_the_platform_package_itself_imports_the_standard_library_alone() -> None:
    found = [top(module) for module in imports("platform/__init__.py")]
    assert set(found) - {"__future__"} <= sys.stdlib_module_names
    assert not any(is_ours(module) for module in imports("platform/__init__.py"))


def handlers(source: str) -> list[str]:
    """Return the exceptions that a file catches, `BaseException` for a bare `except`."""
    caught = []
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            caught += ["BaseException" if kind is None else ast.unparse(kind) for kind in kinds]
    return caught


@pytest.mark.parametrize("source", sources(*PACKAGES))
def test_broad_handlers_stand_at_the_boundaries_alone(source: str) -> None:
    assert sum(kind in BROAD for kind in handlers(source)) <= BOUNDARIES.get(source, 0)


# ------------------------------------------------------------------ what is shipped


def referenced_modules(thing: object) -> set[str]:
    """Return the modules that a pickle names: those that the process that reads it must import.

    Every text in the pickle counts: `STACK_GLOBAL` takes the module's name from the texts before it.
    """
    texts = {argument for _, argument, _ in pickletools.genops(cloudpickle.dumps(thing)) if isinstance(argument, str)}
    return {word for text in texts for word in text.split(" ")[:1]}


def travelling_setup(method: str, workers: int) -> TrialSetup:
    actor: Any = SimpleNamespace()  # in a sweep a handle, which Ray pickles
    dataset: Any = tiny_dataset(n_train=4, n_val=2)
    return TrialSetup("tiny-001", METHODS[method], dataset, actor, "/x", "val/auroc", True, workers, 1.0, 0.0)


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module == "platform" or module.startswith("platform.")}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("workers", [0, 2])
def test_what_tune_ships_to_a_trial_names_no_module_of_platform(method: str, workers: int) -> None:
    modules = referenced_modules(build_trainable(travelling_setup(method, workers)))
    assert "trainables.tune_trial" in modules
    assert ours(modules) == set()


def functions_of(module: Any) -> list[Callable[..., Any]]:
    return [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]


@pytest.mark.parametrize(
    "thing",
    [Decisions, *functions_of(ingest), *functions_of(materialisation), *functions_of(parallel)],
    ids=lambda thing: getattr(thing, "__qualname__", "task"),
)
def test_what_ray_runs_elsewhere_names_no_module_of_platform(thing: object) -> None:
    assert ours(referenced_modules(thing)) == set()


def test_a_reference_to_platform_would_be_found() -> None:
    from platform.sweeps.journal import Event

    assert ours(referenced_modules(lambda: Event("opened", 0.0))) == {"platform.sweeps.journal"}


def test_what_every_trial_imports_brings_neither_torch_nor_what_the_driver_alone_needs() -> None:
    heavy = ("torch", "scipy.signal", "mlflow", "optuna", "onnx")
    program = f"import sys, trainables.tune_trial, data.cross_validation; print(*(set({heavy}) & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
