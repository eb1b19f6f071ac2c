"""A criterion made of several metrics: the smallest of them, as the ECM search has it.

In a spec it is written `min_of(f1, accuracy, precision, recall)`. It is reported as a metric of its own, under a name
that trackers take: `val/min_of-f1-accuracy-precision-recall`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PREFIX = "val/min_of-"


def criterion_name(text: str) -> str:
    """Return the reported name of `min_of(name, name, ...)`; any other text as it is.

    Raises:
        ValueError: it does not name two or more different metrics.
    """
    match = re.fullmatch(r"\s*min_of\((?P<names>.*)\)\s*", text)
    if match is None:
        return text
    names = [name.strip().removeprefix("val/") for name in match["names"].split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(re.fullmatch(r"\w+", name) for name in names):
        raise ValueError(
            "min_of takes two or more different validation metrics, as in min_of(f1, accuracy, precision, recall), "
            f"but got {text!r}"
        )
    return _PREFIX + "-".join(names)


def parts_of(name: str) -> tuple[str, ...]:
    """Return the metrics whose smallest value the metric called `name` is; empty where it is no such criterion."""
    return tuple(f"val/{part}" for part in name.removeprefix(_PREFIX).split("-")) if name.startswith(_PREFIX) else ()


def with_criteria(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Return `metrics` and those of the criteria `names` whose parts are all there."""
    parts = {name: parts_of(name) for name in names}
    known = {name: min(metrics[p] for p in own) for name, own in parts.items() if own and set(own) <= set(metrics)}
    return {**metrics, **known}
