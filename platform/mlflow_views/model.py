"""A trained model as an MLflow model: `mlflow models predict` and `serve` work on it, without this project.

It needs onnxruntime and NumPy; where the run filters or resamples also scipy and pydantic, which the copy of the
preprocessing steps that it then carries is written with.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.dataset import LabelSet, Signal
from platform.models.exported_model import export_trained
from platform.models.trained_model import ModelCard, TrainedModel
from platform.project import ROOT
from trainables.deployed_model import cut_chain

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MLFLOW_FOLDER = "mlflow_model"  # in a sweep's best/
CODE = Path(__file__).with_name("pyfunc.py")


def save_mlflow_model(trained: TrainedModel, folder: Path) -> None:
    """Save a trained model in `folder`, which is replaced. It takes records of the run's store: mV, not preprocessed.

    Raises:
        ArithmeticError: its ONNX file does not answer as PyTorch does.
    """
    before = cut_chain(trained.card.data.preprocess).before
    packages = ["numpy", "onnxruntime", "pandas", *(["pydantic", "scipy"] if before else [])]
    with tempfile.TemporaryDirectory() as name:
        onnx_file, fresh = Path(name) / "model.onnx", Path(name) / "model"
        export_trained(trained, onnx_file)
        with warnings.catch_warnings():
            # Type hints of MLflow's own, as it is imported; an example, which the signature makes needless.
            warnings.simplefilter("ignore", UserWarning)
            from mlflow.pyfunc import save_model  # takes a second, which a sweep spends at its end, not its start

            save_model(
                str(fresh),
                loader_module=CODE.stem,
                data_path=str(onnx_file),
                code_paths=[str(CODE), *([str(_copy_steps(Path(name)))] if before else [])],
                pip_requirements=[f"{package}=={version(package)}" for package in packages],
                signature=_signature(trained.card.data.input_signal, trained.card.data.label_set),
                metadata=_metadata(trained.card),
            )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fresh, folder)


def _signature(signal: Signal, label_set: LabelSet) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    ecg = TensorSpec(np.dtype(np.float32), (-1, len(signal.lead_names), signal.n_timesteps))
    return ModelSignature(Schema([ecg]), Schema([ColSpec(DataType.float, label) for label in label_set.names]))


def _metadata(card: ModelCard) -> dict[str, Any]:
    signal = card.data.input_signal
    return {
        "unit": "mV",
        "lead_names": list(signal.lead_names),
        "fs_hz": signal.fs_hz,
        "thresholds": dict(card.thresholds),
    }


def _copy_steps(folder: Path) -> Path:
    """Copy the modules that preprocessing is made of, and no others, as a package `data`."""
    wanted, copied = ["data", "data.preprocessing"], folder / "data"
    copied.mkdir()
    for module in wanted:  # grows
        path = ROOT.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        shutil.copyfile(path, copied / path.name)
        wanted += [name for name in _imports(path) if name not in wanted]
    return copied


def _imports(path: Path) -> list[str]:
    """Return the modules of `data` that a module imports when it is imported itself."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [node.module for node in body if isinstance(node, ast.ImportFrom) and node.module]
    return [name for name in names if name.startswith("data.")]
