"""The folder `platform/` is the standard library's `platform` module too."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import platform

ROOT = Path(__file__).parents[2]


def standard_module() -> ModuleType:
    """Load the standard library's file under another name."""
    path = Path(sysconfig.get_path("stdlib")) / "platform.py"
    spec = importlib.util.spec_from_file_location("standard_platform", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def our_module() -> ModuleType:
    """Load the project's file as Python does from the root: pytest's own start may have imported the standard one."""
    path = ROOT / "platform" / "__init__.py"
    spec = importlib.util.spec_from_file_location("our_platform", path, submodule_search_locations=[str(path.parent)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


STANDARD, OURS = standard_module(), our_module()
PUBLIC = sorted(name for name in vars(STANDARD) if not name.startswith("_"))


def kind(value: Any) -> Any:
    """Return what must be equal of two functions or classes that were compiled from one file twice."""
    if inspect.isfunction(value):
        return value.__code__.co_code, value.__defaults__, str(inspect.signature(value)), value.__doc__
    if inspect.isclass(value):
        return value.__name__, sorted(vars(value))
    return value


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_the_standard_modules(name: str) -> None:
    assert kind(getattr(OURS, name)) == kind(getattr(STANDARD, name))


def test_nothing_public_is_added_but_what_the_package_needs() -> None:
    assert {name for name in vars(OURS) if not name.startswith("_")} - set(PUBLIC) <= {"annotations"}
    assert OURS.__path__ == [str(ROOT / "platform")]


NULLARY = ["system", "machine", "node", "release", "version", "processor", "python_version", "python_implementation",
           "architecture", "uname", "platform", "libc_ver", "python_build", "python_compiler"]  # fmt: skip


@pytest.mark.parametrize("name", NULLARY)
def test_every_function_answers_as_the_standard_one(name: str) -> None:
    assert getattr(OURS, name)() == getattr(STANDARD, name)()


def test_the_module_in_use_has_both_the_functions_and_the_submodules() -> None:
    assert platform.system() == STANDARD.system()
    assert importlib.util.find_spec("platform.sweeps.journal") is not None


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )


def test_packages_that_ask_for_the_platform_import_from_the_root() -> None:
    code = "import ray, torch, platform; print(platform.__file__, platform.python_version())"
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(ROOT / "platform" / "__init__.py"), platform.python_version()]


def test_the_sweep_command_says_how_it_is_used() -> None:
    result = run("-m", "platform.sweep", "--help")
    assert result.returncode == 0, result.stderr
    assert "usage: python -m platform.sweep" in result.stdout
    assert "--resume" in result.stdout


@pytest.mark.parametrize("flags", [[], ["-P"]], ids=["python -m pytest", "pytest"])
def test_both_ways_to_start_pytest_find_the_submodules(flags: list[str]) -> None:
    """Plain `pytest` does not put the root on the path (as with -P), and imports the standard module first."""
    result = run(*flags, "-m", "pytest", "--collect-only", "-q", "tests/platform/sweeps/test_journal.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_any_cut_of_the_bytes_reads_as_a_prefix" in result.stdout
