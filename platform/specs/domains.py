"""The domains of a search space: the values that one parameter may take.

The verbs are those of Ray Tune's search-space API. Ranges include both ends, in every verb.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class Domain(Protocol):
    """The values that one parameter may take."""

    verb: ClassVar[str]

    @property
    def n_values(self) -> int | None:
        """Return how many values there are, or None for a continuous domain."""

    def value_at(self, index: int) -> Any:
        """Return one of the `n_values` values; ascending, or in the order of the file."""

    def from_unit(self, unit: float) -> Any:
        """Map a number in [0, 1) to a value; uniform numbers give the verb's distribution."""

    def accept(self, value: Any) -> Any:
        """Return `value` in the domain's own type.

        Raises:
            ValueError: the value is not in the domain.
        """

    def distribution(self) -> BaseDistribution:
        """Return the domain as Optuna has it."""

    def encode(self, value: Any) -> Any:
        """Return what Optuna stores for `value`."""

    def decode(self, stored: Any) -> Any:
        """Return the value for what Optuna stores."""

    def to_yaml(self) -> list[Any]:
        """Return the verb's arguments as they stand in a file."""


def _check_range(low: float, high: float) -> None:
    if not low <= high:
        raise ValueError(f"`low <= high` must hold, but got ({low=}, {high=})")


def _check_log(low: float) -> None:
    if not low > 0:
        raise ValueError(f"`low > 0` must hold on a log scale, but got ({low=})")


def _check_step(low: float, high: float, q: float) -> None:
    if not q > 0:
        raise ValueError(f"`q > 0` must hold, but got ({q=})")
    if (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(q)) != 0:
        raise ValueError(f"`high - low` must be a multiple of `q`, but got ({low=}, {high=}, {q=})")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"must be a finite number, but got {value!r}")
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(_number(value)):
        raise ValueError(f"must be an integer, but got {value!r}")
    return int(value)


@dataclass(frozen=True)
class Uniform:
    """Real numbers in [low, high], all equally likely."""

    low: float
    high: float
    verb: ClassVar[str] = "uniform"
    n_values: ClassVar[None] = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    def value_at(self, index: int) -> float:
        raise AssertionError("a continuous domain has no list of values")

    def from_unit(self, unit: float) -> float:
        return min(self.high, self.low + unit * (self.high - self.low))

    def accept(self, value: Any) -> float:
        number = _number(value)
        if not self.low <= number <= self.high:
            raise ValueError(f"must lie in [{self.low!r}, {self.high!r}], but got {value!r}")
        return number

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high)

    def encode(self, value: Any) -> float:
        return float(value)

    def decode(self, stored: Any) -> float:
        return float(stored)

    def to_yaml(self) -> list[Any]:
        return [self.low, self.high]


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Real numbers in [low, high] whose logarithms are all equally likely."""

    verb: ClassVar[str] = "loguniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_log(self.low)

    def from_unit(self, unit: float) -> float:
        log_low, log_high = math.log(self.low), math.log(self.high)
        return min(self.high, max(self.low, math.exp(log_low + unit * (log_high - log_low))))

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high, log=True)


@dataclass(frozen=True)
class QUniform:
    """The numbers low, low + q, ..., high, all equally likely."""

    low: float
    high: float
    q: float
    verb: ClassVar[str] = "quniform"

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        _check_step(self.low, self.high, self.q)

    @property
    def n_values(self) -> int:
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.q))) + 1

    def value_at(self, index: int) -> float:
        # In decimals: 0.1 + 2 * 0.1 would be 0.30000000000000004.
        return float(Decimal(str(self.low)) + index * Decimal(str(self.q)))

    def from_unit(self, unit: float) -> float:
        return self.value_at(int(unit * self.n_values))

    def accept(self, value: Any) -> float:
        number = _number(value)
        index = round((number - self.low) / self.q)
        if not 0 <= index < self.n_values or abs(self.value_at(index) - number) > 1e-8 * self.q:
            raise ValueError(
                f"must be one of {self.low!r}, {self.low!r} + {self.q!r}, ..., {self.high!r}; got {value!r}"
            )
        return self.value_at(index)

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high, step=self.q)

    def encode(self, value: Any) -> float:
        return float(value)

    def decode(self, stored: Any) -> float:
        return self.value_at(round((float(stored) - self.low) / self.q))

    def to_yaml(self) -> list[Any]:
        return [self.low, self.high, self.q]


@dataclass(frozen=True)
class QRandInt:
    """The integers low, low + q, ..., high, all equally likely."""

    low: int
    high: int
    q: int
    verb: ClassVar[str] = "qrandint"

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        _check_step(self.low, self.high, self.q)

    @property
    def n_values(self) -> int:
        return (self.high - self.low) // self.q + 1

    def value_at(self, index: int) -> int:
        return self.low + index * self.q

    def from_unit(self, unit: float) -> int:
        return self.value_at(int(unit * self.n_values))

    def accept(self, value: Any) -> int:
        number = _integer(value)
        if not self.low <= number <= self.high or (number - self.low) % self.q:
            raise ValueError(f"must be one of {self.low}, {self.low + self.q}, ..., {self.high}; got {value!r}")
        return number

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high, step=self.q)

    def encode(self, value: Any) -> int:
        return int(value)

    def decode(self, stored: Any) -> int:
        return int(stored)

    def to_yaml(self) -> list[Any]:
        return [self.low, self.high, self.q]


@dataclass(frozen=True)
class RandInt:
    """The integers from low to high, both included, all equally likely."""

    low: int
    high: int
    verb: ClassVar[str] = "randint"

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    @property
    def n_values(self) -> int:
        return self.high - self.low + 1

    def value_at(self, index: int) -> int:
        return self.low + index

    def from_unit(self, unit: float) -> int:
        return self.value_at(int(unit * self.n_values))

    def accept(self, value: Any) -> int:
        number = _integer(value)
        if not self.low <= number <= self.high:
            raise ValueError(f"must lie in [{self.low}, {self.high}], but got {value!r}")
        return number

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high)

    def encode(self, value: Any) -> int:
        return int(value)

    def decode(self, stored: Any) -> int:
        return int(stored)

    def to_yaml(self) -> list[Any]:
        return [self.low, self.high]


@dataclass(frozen=True)
class LogRandInt(RandInt):
    """The integers from low to high, both included; those of equal ratio equally likely."""

    verb: ClassVar[str] = "lograndint"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_log(self.low)

    def from_unit(self, unit: float) -> int:
        # Each integer owns the half-integers around it, so that the two ends get their full share.
        log_low, log_high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(self.high, max(self.low, round(math.exp(log_low + unit * (log_high - log_low)))))

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high, log=True)


@dataclass(frozen=True)
class Choice:
    """The values of a list, all equally likely.

    Optuna takes None, bool, int, float and str; a list or a mapping goes to it as JSON text.
    """

    values: tuple[Any, ...]
    verb: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("needs at least one value, but got []")
        for first, second in _equal_pairs([self.encode(value) for value in self.values]):
            raise ValueError(f"values must differ, but got {first!r} and {second!r}")

    @property
    def n_values(self) -> int:
        return len(self.values)

    def value_at(self, index: int) -> Any:
        return self.values[index]

    def from_unit(self, unit: float) -> Any:
        return self.values[int(unit * self.n_values)]

    def accept(self, value: Any) -> Any:
        if not any(same_value(value, known) for known in self.values):
            known = ", ".join(repr(known) for known in self.values)
            raise ValueError(f"must be one of {known}; got {value!r}")
        return next(known for known in self.values if same_value(value, known))

    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution([self.encode(value) for value in self.values])

    def encode(self, value: Any) -> Any:
        return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)

    def decode(self, stored: Any) -> Any:
        return next(value for value in self.values if same_value(self.encode(value), stored))

    def to_yaml(self) -> list[Any]:
        return list(self.values)


def same_value(first: Any, second: Any) -> bool:
    """Whether two values are one; 1 and true, which Python holds for equal, are not."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _equal_pairs(values: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield values that Python, and so Optuna, holds for equal: 1, 1.0 and true are."""
    seen: dict[Any, Any] = {}
    for value in values:
        if value in seen:
            yield seen[value], value
        seen[value] = value


VERBS: dict[str, Callable[..., Domain]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "quniform": QUniform,
    "randint": RandInt,
    "lograndint": LogRandInt,
    "qrandint": QRandInt,
    "choice": Choice,
}
ARGUMENTS: dict[str, str] = {
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quniform": "[low, high, q]",
    "randint": "[low, high]",
    "lograndint": "[low, high]",
    "qrandint": "[low, high, q]",
    "choice": "[value, ...]",
}


def parse_domain(verb: str, arguments: Any) -> Domain:
    """Build the domain of one verb from its arguments in a file.

    Raises:
        ValueError: the arguments break the verb's rule.
    """
    shape = ARGUMENTS[verb]
    if not isinstance(arguments, list):
        raise ValueError(f"`{verb}` takes {shape}, but got {arguments!r}")
    if verb == "choice":
        return Choice(tuple(arguments))
    if len(arguments) != shape.count(",") + 1:
        raise ValueError(f"`{verb}` takes {shape}, but got {arguments!r}")
    convert = _integer if "int" in verb else _number
    return VERBS[verb](*(convert(argument) for argument in arguments))
