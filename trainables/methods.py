"""The methods that a spec may name: one line each."""

from __future__ import annotations

from trainables.adagrad_fusion import ADAGRAD_FUSION
from trainables.atml import ATML
from trainables.contrastive_pretrain import CONTRASTIVE_PRETRAIN
from trainables.enecg import ENECG
from trainables.forecasting_pretrain import FORECASTING_PRETRAIN
from trainables.hubert_ecg import HUBERT_ECG
from trainables.hubert_ecg_pretrain import HUBERT_ECG_PRETRAIN
from trainables.method import Method
from trainables.peft_method import PEFT
from trainables.supervised import SUPERVISED

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        SUPERVISED,
        PEFT,
        ADAGRAD_FUSION,
        ATML,
        ENECG,
        HUBERT_ECG,
        HUBERT_ECG_PRETRAIN,
        CONTRASTIVE_PRETRAIN,
        FORECASTING_PRETRAIN,
    )
}
