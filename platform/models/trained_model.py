"""A trained model with all that its use needs: of any trial of a sweep that still has its checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from data.card import DataCard
from platform.sweeps.journal import TrialRecord, read_events, replay
from trainables.checkpoint import load_weights, read_notes
from trainables.cross_validation import training_method
from trainables.method import Method
from trainables.model_card import BEST_FOLDER, CARD_NAME, WEIGHTS_NAME, ModelCard, read_card
from trainables.tune_trial import BEST_FILE

__all__ = [
    "BEST_FOLDER",
    "CARD_NAME",
    "DATA_CARD_NAME",
    "TRIALS_FOLDER",
    "WEIGHTS_NAME",
    "ModelCard",
    "TrainedModel",
    "read_trained_model",
]

DATA_CARD_NAME, TRIALS_FOLDER = "data.json", "trials"


@dataclass(frozen=True)
class TrainedModel:
    """A model with its weights, in evaluation mode on the CPU, finished: adapters are merged.

    Attributes:
        weights: the file that they came from, as training saved them; `model.state_dict()` may have other keys.
        run: the sweep's folder; None for a `best/` that was taken elsewhere.
    """

    card: ModelCard
    config: Any
    model: nn.Module
    weights: Path
    run: Path | None

    @property
    def method(self) -> Method:
        return training_method(self.card.method, self.card.folds)


def read_trained_model(place: Path, trial: str | None = None) -> TrainedModel:
    """Read a model from a sweep's folder (its best trial, or `trial`), its `best/`, or a trial's folder in it.

    Raises:
        ValueError: there is none; one line, with the way out.
    """
    run = _run_of(place)
    if trial is None and place.parent.name == TRIALS_FOLDER:
        trial = place.name
    if trial is not None and run is None:
        raise ValueError(f"{place}: --trial needs the sweep's folder, and this is none; give runs/NAME")
    if trial is not None and run is not None:
        card, weights = _trial_card(run, trial), run / TRIALS_FOLDER / trial / BEST_FILE
    else:
        folder = place if (place / CARD_NAME).exists() else place / BEST_FOLDER
        card, weights = read_card(folder / CARD_NAME), folder / WEIGHTS_NAME
    return _build(card, weights, run)


def _run_of(place: Path) -> Path | None:
    """Return the sweep's folder that `place` is or lies in."""
    folders = (place, *place.absolute().parents[:2])
    return next((folder for folder in folders if (folder / DATA_CARD_NAME).exists()), None)


def _trial_card(run: Path, trial: str) -> ModelCard:
    record = replay(list(read_events(run)))
    known = {**record.trials, **record.repeats}
    if trial not in known:
        raise ValueError(f"{run} has no trial {trial!r}; it has {', '.join(known)}")
    weights = run / TRIALS_FOLDER / trial / BEST_FILE
    if not weights.exists():
        kept = sorted(path.parent.name for path in (run / TRIALS_FOLDER).glob(f"*/{BEST_FILE}"))
        raise ValueError(f"{run}: the checkpoint of {trial} was not kept; there are those of {', '.join(kept)}")
    spec, data = record.opened[-1].body["spec"], DataCard.model_validate_json((run / DATA_CARD_NAME).read_bytes())
    notes = read_notes(weights)
    return ModelCard(
        sweep=run.name,
        trial=trial,
        method=spec["method"],
        params=dict(known[trial].params),
        seed=spec["seed"],
        data=data,
        thresholds=dict(zip(data.label_set.names, json.loads(notes["thresholds"]), strict=True)),
        val=_validation(known[trial], int(notes["epoch"])),
        folds=spec.get("folds.k"),
    )


def _validation(trial: TrialRecord, epoch: int) -> dict[str, float]:
    report = trial.reports[epoch]
    return {name.removeprefix("val/"): value for name, value in report.items() if name.startswith("val/")}


def _build(card: ModelCard, weights: Path, run: Path | None) -> TrainedModel:
    method, config = card.method_and_config()
    model = method.build_model(config, card.data.signal, card.data.label_set)
    model.load_state_dict(load_weights(weights))
    return TrainedModel(card, config, method.finish(model.eval()), weights, run)
