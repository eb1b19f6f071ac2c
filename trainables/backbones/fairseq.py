"""Checkpoints of fairseq-signals (ECG-FM) in the key names of `transformers`, without fairseq."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

# Read from the module definitions on both sides; a fine-tuned checkpoint puts `encoder.` before all but its head.
RENAMED: Final = (
    (r"mask_emb", "masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.0\.2\.(weight|bias)", r"feature_extractor.conv_layers.0.layer_norm.\1"),
    (r"layer_norm\.(weight|bias)", r"feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(weight|bias)", r"feature_projection.projection.\1"),
    (r"conv_pos\.pos_conv\.0\.(.+)", r"encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layer_norm\.(weight|bias)", r"encoder.layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.+)", r"encoder.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.+)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(.+)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(.+)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(.+)", r"encoder.layers.\1.final_layer_norm.\2"),
)
DROPPED: Final = re.compile(r"(quantizer|project_q|final_proj|proj)\..+")  # of pre-training; the fine-tuned head


def is_fairseq(model: Mapping[str, Any]) -> bool:
    """Tell whether a state dict has the key names of fairseq-signals."""
    return "post_extract_proj.weight" in model or "encoder.post_extract_proj.weight" in model


def from_fairseq(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of a pretrained or fine-tuned ECG-FM; heads are left out, strange keys stay as they are."""
    prefix = "" if "post_extract_proj.weight" in model else "encoder."
    inner = {key.removeprefix(prefix): tensor for key, tensor in model.items()}
    return {_rename(key): tensor for key, tensor in inner.items() if not DROPPED.fullmatch(key)}


def _rename(key: str) -> str:
    matches = ((re.fullmatch(pattern, key), template) for pattern, template in RENAMED)
    return next((match.expand(template) for match, template in matches if match), key)
