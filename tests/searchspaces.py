"""The shipped search spaces, and what tests need to know of them."""

from __future__ import annotations

from pathlib import Path

from data.ingest import ingest_serially
from data.kinds.ptbxl import PtbxlConfig, build_reader
from platform.chains.stages import is_chain
from platform.project import ROOT

ALL = sorted((ROOT / "searchspaces").glob("*.yaml"))
SPACES = [path for path in ALL if not is_chain(path)]
CHAINS = [path for path in ALL if is_chain(path)]
OF_SEVERAL_STORES = {"bundled_hubert", "hubert_ecg_base"}  # chains that a user ingests stores for; one wants a GPU
BENCHMARK = {  # of PTB-XL: each task with one of the models, so that each model is trained
    "ptbxl_all": "fcn_wang",
    "ptbxl_diag": "resnet1d_wang",
    "ptbxl_diag_subclass": "inception1d",
    "ptbxl_diag_superclass": "fcn_wang",
    "ptbxl_form": "lstm_bidir",
    "ptbxl_rhythm": "xresnet1d101",
}


def names(path: Path) -> str:
    return path.stem


def ingest_ptbxl(recordings: Path, store: Path) -> Path:
    """Ingest the sample of PTB-XL, and return the store."""
    ingest_serially(build_reader(PtbxlConfig(source=str(recordings / "ptbxl"))), store)
    return store
