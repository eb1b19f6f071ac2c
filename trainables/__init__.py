"""What a trial runs: methods, their models and the training loop they share. Plain PyTorch."""

from __future__ import annotations

from trainables.method import Method
from trainables.supervised import SUPERVISED

METHODS: dict[str, Method] = {method.name: method for method in (SUPERVISED,)}
