"""Checkpoints without the weights that training does not change: they are where the backbone came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

DIGEST_KEY = "frozen_digest"


class FrozenWeights:
    """Leaves parameters out of a module's state dict, and a digest of them in.

    Loading such a state dict asks for a module whose left-out parameters have the same digest, so that an adapter never
    meets another backbone than it was trained on.

    Args:
        names: of the parameters of `module` to leave out; they must not change any more.
        origin: where they came from, for the message.
    """

    def __init__(self, module: nn.Module, names: frozenset[str], origin: str) -> None:
        self._names, self._origin = names, origin
        self._digest: Tensor | None = None
        self._handles: tuple[RemovableHandle, ...] = (
            # partial: torch writes an attribute on the first, which a bound method does not take
            module.register_state_dict_post_hook(partial(self._leave_out)),  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(partial(self._fill_in)),  # type: ignore[no-untyped-call]
        )

    def release(self) -> None:
        """Let the state dict be whole again."""
        for handle in self._handles:
            handle.remove()

    def _leave_out(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in self._names:
            del state[prefix + name]
        if not any(parameter.is_meta for parameter in module.parameters()):
            state[prefix + DIGEST_KEY] = self._digest_of(module)

    def _fill_in(self, module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        expected = state.pop(prefix + DIGEST_KEY, None)
        if expected is None or not torch.equal(expected.cpu(), self._digest_of(module)):
            raise ValueError(
                f"the checkpoint was trained on other frozen weights than {self._origin} gives; build the model with "
                "the `weights` and `weights_seed` that it was trained with"
            )
        own = _parameters(module)
        state.update({prefix + name: own[name].detach() for name in self._names})

    def _digest_of(self, module: nn.Module) -> Tensor:
        if self._digest is None:
            self._digest = _digest(_parameters(module), self._names)
        return self._digest


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))


def _digest(parameters: Mapping[str, Tensor], names: frozenset[str]) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode())
        digest.update(parameters[name].detach().to("cpu", torch.float32).contiguous().numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
