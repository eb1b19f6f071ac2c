"""Pretrained transformers for ECG: wav2vec2, HuBERT and ECG-FM, how a signal meets them, and their weights."""
