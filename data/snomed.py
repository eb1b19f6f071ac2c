"""Labels of the PhysioNet/CinC Challenges: which label a SNOMED CT code stands for, by each of four rules.

The tables and what is ambiguous in them: `data/tables/README.md`.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet

TABLES = Path(__file__).parent / "tables"
CHAPMAN_RHYTHMS = ("SB", "SR", "AFIB", "ST", "AF", "SA", "SVT", "AT", "AVNRT", "AVRT", "SAAWR")
"""Rhythms of Chapman-Shaoxing and Ningbo by their authors' acronyms: AF is atrial flutter, AFIB fibrillation."""

# The Challenge's edition writes two of them with codes of its own: dx_mapping_unscored.csv.
_CHALLENGE_RHYTHM_CODES = {"251166008": "AVNRT", "17366009": "SAAWR"}


@dataclass(frozen=True)
class LabelRule:
    """Which label of a label set a code stands for; other codes stand for none.

    Attributes:
        names: the labels in order, whether they occur or not.
        labels: code -> label.
        last_resort: codes that count only in a record that has no other label of the rule.
    """

    name: str
    names: tuple[str, ...]
    labels: Mapping[str, str]
    last_resort: Mapping[str, str] = field(default_factory=dict)

    @property
    def label_set(self) -> LabelSet:
        return LabelSet(self.name, "multilabel", self.names)

    def binarise(self, codes_N: Sequence[Collection[str]]) -> NDArray[np.float32]:
        """Return labels_NK of N records, each given by its codes."""
        column = {name: index for index, name in enumerate(self.names)}
        labels_NK = np.zeros((len(codes_N), len(self.names)), np.float32)
        for row, codes in enumerate(codes_N):
            found = [self.labels[code] for code in codes if code in self.labels]
            found = found or [self.last_resort[code] for code in codes if code in self.last_resort]
            labels_NK[row, [column[label] for label in found]] = 1
        return labels_NK


def scored_rule() -> LabelRule:
    """Return the rule of the official 2021 scoring: 26 classes in its order, equivalent diagnoses merged.

    A merged class has both names: `CLBBB|LBBB`.
    """
    abbreviations = {row["SNOMEDCTCode"]: row["Abbreviation"] for row in scored_diagnoses()}
    with (TABLES / "challenge2021/weights.csv").open(encoding="utf-8", newline="") as file:
        classes = [cell.split("|") for cell in next(csv.reader(file))[1:]]
    names = ["|".join(abbreviations[code] for code in codes) for codes in classes]
    labels = {code: name for name, codes in zip(names, classes, strict=True) for code in codes}
    return LabelRule("scored", tuple(names), labels)


@dataclass(frozen=True)
class ScoringWeights:
    """What the 2021 scoring gives for calling one class where a record has another; C classes.

    Attributes:
        names: as those of `scored_rule`: merged classes have both abbreviations.
        weights_CC: by true class and called class.
        normal: the place of sinus rhythm.
    """

    names: tuple[str, ...]
    weights_CC: NDArray[np.float64]
    normal: int

    def columns(self, labels: Sequence[str]) -> list[int] | None:
        """Return each label's class, by its name or by one of a merged class's; None where a label has none."""
        place = {part: index for index, name in enumerate(self.names) for part in (name, *name.split("|"))}
        return [place[label] for label in labels] if all(label in place for label in labels) else None


def scoring_weights() -> ScoringWeights:
    """Read the weights of the official 2021 scoring."""
    names = scored_rule().names
    with (TABLES / "challenge2021/weights.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    weights_CC = np.array([[float(cell) for cell in row[1:]] for row in rows])
    return ScoringWeights(names, weights_CC, names.index("NSR"))


def adagrad_fusion_rule(count_columns: Sequence[str], count_above: int) -> LabelRule:
    """Return AdaGrad-Fusion's rule: scored codes with published counts above `count_above`, unmerged, in table order.

    With 200: 16 labels on Chapman-Shaoxing, 19 on PTB-XL, 23 on Ningbo, 18 on Georgia.

    Args:
        count_columns: the columns of dx_mapping_scored.csv to add: one for each source set.
    """
    kept = {
        row["SNOMEDCTCode"]: row["Abbreviation"]
        for row in scored_diagnoses()
        if sum(int(row[column]) for column in count_columns) > count_above
    }
    return LabelRule("adagrad_fusion", tuple(kept.values()), kept)


def chapman_rhythm_rule() -> LabelRule:
    """Return the rule of the eleven rhythms of Chapman-Shaoxing and Ningbo, of which a record has one.

    A code that the authors gave to a condition too (195101003: SAAWR and WAVN) is a rhythm where nothing else is.
    """
    rows = _rows("chapman/ConditionNames_SNOMED-CT.csv")
    rhythms = {row["Snomed_CT"]: row["AcronymName"] for row in rows if row["AcronymName"] in CHAPMAN_RHYTHMS}
    conditions = {row["Snomed_CT"] for row in rows if row["AcronymName"] not in CHAPMAN_RHYTHMS}
    certain = {code: name for code, name in rhythms.items() if code not in conditions}
    shared = {code: name for code, name in rhythms.items() if code in conditions}
    return LabelRule("rhythm", CHAPMAN_RHYTHMS, certain | _CHALLENGE_RHYTHM_CODES, shared)


def all_rule(codes: Collection[str]) -> LabelRule:
    """Return the rule of all `codes`, sorted by name: the Challenge's abbreviation, else Chapman's, else the code."""
    abbreviations = {
        row["SNOMEDCTCode"]: row["Abbreviation"]
        for row in (*scored_diagnoses(), *_rows("challenge2021/dx_mapping_unscored.csv"))
    }
    taken = set(abbreviations.values())
    for row in _rows("chapman/ConditionNames_SNOMED-CT.csv"):
        if row["AcronymName"] not in taken:
            abbreviations.setdefault(row["Snomed_CT"], row["AcronymName"])
    labels = {code: abbreviations.get(code, code) for code in codes}
    return LabelRule("all", tuple(sorted(labels.values())), labels)


def scored_diagnoses() -> list[dict[str, str]]:
    """Read the rows of dx_mapping_scored.csv: Dx, SNOMEDCTCode, Abbreviation, a count for each source set."""
    return _rows("challenge2021/dx_mapping_scored.csv")


def _rows(table: str) -> list[dict[str, str]]:
    with (TABLES / table).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))
