"""Small networks with random weights and the card of data that no store holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from data.card import DataCard
from data.config import DataConfig
from data.dataset import LabelSet, Signal, Task
from data.leads import LEADS_12
from data.preprocessing import is_global, output_signal
from data.scaling import Statistics
from trainables.deployed_onnx import ecg_like
from trainables.methods import METHODS
from trainables.predictor import Predictor, cut
from trainables.windows import window_signal

LABEL_SETS: Mapping[Task, LabelSet] = {
    "binary": LabelSet("any", "binary", ("a",)),
    "multilabel": LabelSet("any", "multilabel", ("a", "b", "c")),
    "multiclass": LabelSet("any", "multiclass", ("a", "b", "c")),
    "regression": LabelSet("any", "regression", ("QT",), units=("ms",)),
}


def small_predictor(
    preprocess: Sequence[Mapping[str, Any]] = (),
    task: Task = "multilabel",
    n_leads: int = 3,
    n_timesteps: int = 200,
    fs_hz: float = 100,
    **params: Any,
) -> Predictor:
    """Build a predictor; its network's answers differ from record to record and from label to label."""
    config = DataConfig.model_validate({"store": "nowhere", "preprocess": preprocess})
    signal, label_set = Signal(LEADS_12[:n_leads], fs_hz, n_timesteps), LABEL_SETS[task]
    card = DataCard(
        config=config,
        fingerprint="f00d",
        folds={"train": (1,)},
        input_signal=signal,
        statistics=Statistics(0.1, 0.3) if is_global(config.preprocess) else None,
        signal=output_signal(config.preprocess, signal),
        label_set=label_set,
    )
    method = METHODS["supervised"]
    parsed = method.parse_config({"model": "cnn", "depth": 2, "channels": 8, "dropout": 0.0, **params})
    torch.manual_seed(1)
    network = method.build_model(parsed, card.signal, label_set).eval()
    predictor = Predictor(network, parsed, card)
    spread_logits(predictor)
    return predictor


@torch.no_grad()
def spread_logits(predictor: Predictor) -> None:
    """Change the last layer so that the logits of ECGs have mean 0 and deviation 1; random ones hardly differ."""
    data = predictor.data
    split = predictor.prepare(cut(list(ecg_like(data.input_signal, 40)), data.input_signal))
    window = window_signal(predictor.config, data.signal).n_timesteps
    logits_NK = predictor.network(torch.from_numpy(split.ecg_NLT[:, :, :window].copy()))
    last = [module for module in predictor.network.modules() if isinstance(module, nn.Linear)][-1]
    last.bias.copy_((last.bias - logits_NK.mean(dim=0)) / logits_NK.std(dim=0))
    last.weight.div_(logits_NK.std(dim=0)[:, None])
