"""What methods do once for all trials of a sweep, before the first: one line each.

Runs in the driver, with Ray up and the data prepared.
"""

from __future__ import annotations

from collections.abc import Callable

from data.sharing import SharedDataset
from platform.methods.enecg.features import compute_features
from platform.specs.spec import Spec

METHOD_PREPARATIONS: dict[str, Callable[[Spec, SharedDataset], None]] = {"enecg": compute_features}
