"""Targets: named numbers that a model is to reach, which end a search or choose among what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from platform.specs.quantities import better

FIRST_OBJECTIVE: Final = "min_metric"
"""The name by which a target means the search's first objective, whatever it is called."""

_KIB: Final = 1024.0
_OF_THE_TRIAL: Final = ("_bytes", "_ms", "_s")
"""Units that a bare name of the whole trial ends in; `parameters` has none."""


@dataclass(frozen=True)
class Target:
    """A number to reach: at least it, or at most it for sizes, times, losses and errors.

    Attributes:
        name: as in a spec: `min_metric` (of validation), `onnx_kib`.
        quantity: the trial's number: `val/min_metric`, `onnx_bytes`.
        bound: in the unit of the name.
        scale: how much of the quantity's unit is one of the name's.
    """

    name: str
    quantity: str
    direction: Literal["<=", ">="]
    bound: float
    scale: float = 1.0

    @staticmethod
    def of(name: str, bound: float, first_objective: str) -> Target:
        """Read a target: a bare name is a validation metric, unless it ends in a unit or is `parameters`."""
        if name == FIRST_OBJECTIVE:
            return Target(name, first_objective, ">=", bound)
        quantity, scale = name, 1.0
        if "/" not in name:
            if name.endswith("_kib"):
                quantity, scale = f"{name.removesuffix('_kib')}_bytes", _KIB
            elif name != "parameters" and not name.endswith(_OF_THE_TRIAL):
                quantity = f"val/{name}"
        return Target(name, quantity, "<=" if better(quantity) == "min" else ">=", bound, scale)

    @property
    def text(self) -> str:
        return f"{self.name} {self.direction} {self.bound:g}"

    def value(self, quantities: Mapping[str, float]) -> float | None:
        """Return the quantity in the unit of the name, or None if it is not known."""
        return quantities[self.quantity] / self.scale if self.quantity in quantities else None

    def miss(self, quantities: Mapping[str, float]) -> float:
        """Return by how much the target is missed, in the unit of the name: 0 where it is met, inf where unknown."""
        value = self.value(quantities)
        if value is None:
            return float("inf")
        return max(0.0, value - self.bound if self.direction == "<=" else self.bound - value)


def parse_targets(bounds: Mapping[str, float], first_objective: str) -> tuple[Target, ...]:
    """Read the targets of a spec: name -> bound."""
    return tuple(Target.of(name, bound, first_objective) for name, bound in bounds.items())


def are_met(targets: Sequence[Target], quantities: Mapping[str, float]) -> bool:
    """Tell whether all targets are met; never where there are none."""
    return bool(targets) and all(target.miss(quantities) == 0 for target in targets)


def relative_miss(targets: Sequence[Target], quantities: Mapping[str, float]) -> float:
    """Return the sum of the misses, each as a share of its bound, so that units do not matter."""
    return sum(target.miss(quantities) / (abs(target.bound) or 1.0) for target in targets)


def miss_lines(targets: Sequence[Target], quantities: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each target: what there is, and by how much it misses."""
    for target in targets:
        value, miss = target.value(quantities), target.miss(quantities)
        known = "unknown" if value is None else f"{value:.4g}"
        yield f"{target.text}: {known}" + (f", misses by {miss:.4g}" if miss else ", met")
