"""What methods add to the end of a sweep, one line each: their own tables, files, and looks at the test fold.

Runs in the driver, once, when all trials have ended, after the best trial's test and before the report is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platform.methods.adagrad_fusion import conclude as conclude_adagrad_fusion
from platform.methods.atml import architecture
from platform.methods.atml import conclude as conclude_atml
from platform.methods.enecg.outcome import conclude as conclude_enecg
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.methods.hubert_ecg import conclude_contrast, conclude_fine_tuning, conclude_pretraining
from platform.methods.peft.cells import cell_name
from platform.methods.peft.outcome import conclude_peft
from platform.models.score_folder import write_score_folder
from platform.models.trained_model import TrainedModel


@dataclass(frozen=True)
class MethodOutcome:
    """What one method adds.

    Attributes:
        conclude: writes the method's own files into the sweep's folder, and returns what to say of them.
        cell: a trial's configuration (dotted keys) -> the cell of a table that it belongs to; the checkpoint of every
            cell's best trial is then kept beside those of the sweep's best. None: the method compares no cells.
        on_incumbent: told of the sweep's folder and the model of every new best trial while the search goes on.
    """

    conclude: Callable[[FinishedSweep], Findings]
    cell: Callable[[Mapping[str, Any]], str] | None = None
    on_incumbent: Callable[[Path, TrainedModel], object] | None = None


METHOD_OUTCOMES: dict[str, MethodOutcome] = {
    "adagrad_fusion": MethodOutcome(conclude_adagrad_fusion),
    "atml": MethodOutcome(conclude_atml, architecture, write_score_folder),
    "contrastive_pretrain": MethodOutcome(conclude_contrast),
    "hubert_ecg": MethodOutcome(conclude_fine_tuning),
    "hubert_ecg_pretrain": MethodOutcome(conclude_pretraining),
    "enecg": MethodOutcome(conclude_enecg),
    "peft": MethodOutcome(conclude_peft, cell_name),
}
