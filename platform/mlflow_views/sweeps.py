"""Which sweeps an MLflow experiment holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from platform.mlflow_views.mirror import SQLITE, Target
from platform.tracking import MLFLOW_ENVIRONMENT


def finished_sweeps(uri: str, experiment: str) -> list[str]:
    """Return the names of the sweeps that ended well, the earliest first.

    Args:
        uri: a tracking URI; a relative `sqlite:///` path counts from the project's root.

    Raises:
        ValueError: there is no such experiment, or MLflow does not answer.
    """
    resolved = Target(uri, experiment, "", {}, {}).resolved_uri
    if resolved.startswith(SQLITE) and not Path(resolved.removeprefix(SQLITE)).exists():
        raise ValueError(f"{uri} is not there; name MLflow's store with --uri")  # MLflow would make it
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return list(_finished_sweeps(MlflowClient(tracking_uri=resolved), uri, experiment))
    except MlflowException as error:
        raise ValueError(f"{uri} does not answer: {error}") from error


def _finished_sweeps(client: MlflowClient, uri: str, experiment: str) -> Iterator[str]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(each.name for each in client.search_experiments())
        raise ValueError(f"{uri} has no experiment {experiment!r}; it has {names}")
    rule, order, token = "attributes.status = 'FINISHED' and tags.stage = 'search'", ["start_time ASC"], None
    while True:
        page = client.search_runs([found.experiment_id], rule, order_by=order, page_token=token)
        yield from (run.data.tags["sweep"] for run in page if "trial" not in run.data.tags)
        token = page.token
        if not token:
            return
