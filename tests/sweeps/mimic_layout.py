"""Synthetic records in the layout of MIMIC-IV-ECG that EnECG reads: WFDB files in its folders, a JSONL of labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import wfdb

from data.leads import LEADS_12
from data.synthetic import SyntheticConfig, SyntheticReader
from tests.data.whole import read_whole

MISSING_MS = 29999


def write_mimic(folder: Path, n_records: int, fs_hz: float = 100.0) -> Path:
    """Write `folder/root` and `folder/ecg.jsonl`, and return the latter; every 20th RR interval is missing."""
    options = {"task": "multitask", "n_records": n_records, "fs_hz": fs_hz, "duration_s": 10}
    block = read_whole(SyntheticReader(SyntheticConfig.model_validate(options)))
    lines = []
    for record, patient_id in enumerate(block.patient_ids.tolist()):
        patient, study = 10_000_000 + int(patient_id[1:]), 40_000_000 + record
        path = f"files/p{str(patient)[:4]}/p{patient}/s{study}/{study}"
        _write_record(folder / "root" / path, block.ecg_NLT[record], fs_hz)
        labels = {name: float(values_N1[record, 0]) for name, values_N1 in block.labels.items()}
        rr_interval = MISSING_MS if record % 20 == 19 else round(labels["rr_interval"])
        lines.append(
            {
                "subject_id": patient,
                "study_id": study,
                "ecg_path": path,
                "rr_interval": rr_interval,
                "age": round(labels["age"], 1),
                "gender": int(labels["gender"]),
                "flag": bool(labels["flag"]),
                "report_label": int(labels["report_label"]),
            }
        )
    file = folder / "ecg.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return file


def _write_record(path: Path, ecg_LT: np.ndarray, fs_hz: float) -> None:
    path.parent.mkdir(parents=True)
    wfdb.wrsamp(
        path.name, fs=fs_hz, units=["mV"] * 12, sig_name=list(LEADS_12), p_signal=ecg_LT.T.astype(np.float64),
        fmt=["16"] * 12, adc_gain=[1000] * 12, baseline=[0] * 12, write_dir=str(path.parent),
    )  # fmt: skip
