"""The methods that a spec may name: one line each."""

from __future__ import annotations

from trainables.atml import ATML
from trainables.method import Method
from trainables.peft_method import PEFT
from trainables.supervised import SUPERVISED

METHODS: dict[str, Method] = {method.name: method for method in (SUPERVISED, ATML, PEFT)}
