"""Small specs to test with."""

from __future__ import annotations

from typing import Any

from platform.specs.spec import Spec


def make_spec(params: dict[str, Any] | None = None, **sections: Any) -> Spec:
    """Build a spec of the supervised family; `sections` replace or add top-level keys."""
    values: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "method": "supervised",
        "data": {"store": "stores/tiny", "synthetic": {"task": "beats", "n_records": 200}},
        "params": {"lr": {"loguniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0, 0.9]}} if params is None else params,
        "search": {"metric": "val/auroc", "mode": "max", "scheduler": "none"},
        "budget": {"trials": 40, "epochs": 9},
    }
    return Spec.model_validate({**values, **sections})


def search(**keys: Any) -> dict[str, Any]:
    """Return a `search` section without a scheduler."""
    defaults = {"metric": "val/auroc", "mode": "max", "scheduler": "none"}
    return {**({} if isinstance(keys.get("metric"), list) else defaults), "scheduler": "none", **keys}
