"""The PhysioNet/CinC Challenges 2020 and 2021: WFDB folders of one or several source sets.

What is known of a record stands in the comments of its header: `#Dx: 426783006,427393009` (v1.0.2) or `# Dx: ...`
(v1.0.3), and likewise Age and Sex. Label sets: `scored`, `all`, `adagrad_fusion`, and `rhythm` where all records are
of Chapman-Shaoxing or Ningbo; their rules are in `data.snomed`. The set that a record is from shows in its name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field, field_validator

from data.folds import fold_roles, stratified_folds
from data.leads import LEADS_12
from data.reader import Header, Quarantined
from data.record_reader import UNREADABLE, Index, RecordConfig, RecordReader, reason
from data.snomed import LabelRule, adagrad_fusion_rule, all_rule, chapman_rhythm_rule, scored_rule
from data.split_csv import SPLIT_ROLES, Split, read_split
from data.wfdb_record import read_wfdb

SourceSet = Literal["cpsc", "cpsc_extra", "stpetersburg", "ptb", "ptbxl", "g12ec", "chapman", "ningbo"]
SOURCE_SETS: tuple[SourceSet, ...] = get_args(SourceSet)  # meta `source_set` is a place in this list
COUNT_COLUMNS: Mapping[SourceSet, str] = MappingProxyType(
    {
        "cpsc": "CPSC",
        "cpsc_extra": "CPSC_Extra",
        "stpetersburg": "StPetersburg",
        "ptb": "PTB",
        "ptbxl": "PTB_XL",
        "g12ec": "Georgia",
        "chapman": "Chapman_Shaoxing",
        "ningbo": "Ningbo",
    }
)  # of dx_mapping_scored.csv

_PREFIXES: Mapping[str, SourceSet] = MappingProxyType(
    {"A": "cpsc", "Q": "cpsc_extra", "I": "stpetersburg", "S": "ptb", "HR": "ptbxl", "E": "g12ec", "JS": "chapman"}
)
_LAST_OF_CHAPMAN = 10_646  # JS00001 to JS10646 are Chapman-Shaoxing's, JS10647 to JS45551 Ningbo's
_COMMENT = re.compile(r"^#[ \t]*(Age|Sex|Dx)[ \t]*:[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_SEXES = {"male": 0.0, "m": 0.0, "female": 1.0, "f": 1.0}
_UNKNOWN = {"unknown", "nan"}


class Challenge2021Config(RecordConfig):
    """Which of the source sets, and the one number of AdaGrad-Fusion's label rule."""

    source: str = Field(description="folder with .hea and .mat files, at any depth")
    datasets: tuple[SourceSet, ...] | None = Field(
        None, min_length=1, description=f"take only these source sets, separated by commas: {', '.join(SOURCE_SETS)}"
    )
    count_above: int = Field(
        200, ge=0, description="adagrad_fusion keeps the scored codes with a higher published count in the source sets"
    )
    split: tuple[str, str, str] | None = Field(
        None,
        description="a published split instead of folds: CSV files TRAIN,VAL,TEST with records in the first column",
    )
    n_folds: int = Field(10, ge=3, description="number of folds: the last is for test, the one before for validation")
    seed: int = Field(18, ge=0, description="seed of the folds")

    @field_validator("datasets", "split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class Comments(NamedTuple):
    """What a header's comments say of a record."""

    codes: frozenset[str]
    age: float  # years, NaN where unknown
    sex: float  # 0 male, 1 female, NaN where unknown


class Found(NamedTuple):
    """A record whose header is read."""

    path: Path  # without a suffix
    source_set: SourceSet | None
    comments: Comments

    @property
    def record_id(self) -> str:
        return self.path.name


def build_reader(config: Challenge2021Config) -> RecordReader:
    """Read the header of every record.

    Raises:
        ValueError: there is no record of the sets asked for, too few for folds, or two have the same name.
    """
    records, quarantined = _read_headers(_find_headers(config))
    if not records:
        raise ValueError(f"{config.source}: no record has a good header; the first: {quarantined[0].reason}")
    split = _assign(records, config)
    records = [record for record in records if record.record_id in split.folds]
    rules, rule_notes = _rules(records, config.count_above)
    codes_N = [record.comments.codes for record in records]
    labels = {rule.name: rule.binarise(codes_N) for rule in rules}
    empty = [f"label set {name} is left out, as none of its labels occurs" for name in labels if not labels[name].any()]
    header = Header(
        kind="challenge2021",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={rule.name: rule.label_set for rule in rules if labels[rule.name].any()},
        folds=SPLIT_ROLES if config.split else fold_roles(config.n_folds),
        patients_known=False,
        notes=(*rule_notes, *split.notes, *empty),
    )
    record_ids = np.array([record.record_id for record in records])
    index = Index(
        places=[str(record.path) for record in records],
        record_ids=record_ids,
        patient_ids=record_ids,
        folds=np.array([split.folds[record.record_id] for record in records], np.int16),
        labels={name: labels[name] for name in header.label_sets},
        meta={
            "age": np.array([record.comments.age for record in records], np.float32),
            "sex": np.array([record.comments.sex for record in records], np.float32),
            "source_set": np.array([_source_index(record.source_set) for record in records], np.float32),
        },
    )
    return RecordReader(header, index, read_wfdb, config.nan, quarantined)


def source_set(record_id: str) -> SourceSet | None:
    """Return the set that a record of this name is from; none where the name is not one of the Challenge's."""
    match = re.fullmatch(r"([A-Z]+)(\d+)", record_id)
    found = _PREFIXES.get(match[1]) if match else None
    return "ningbo" if found == "chapman" and match and int(match[2]) > _LAST_OF_CHAPMAN else found


def parse_comments(header: str) -> Comments:
    """Read age, sex and diagnoses from the text of a header, in any of the challenges' styles.

    Raises:
        ValueError: it has no Dx line, or a diagnosis that is no SNOMED CT code.
    """
    values = {key.lower(): value for key, value in _COMMENT.findall(header)}
    if "dx" not in values:
        raise ValueError("its header has no Dx line, so its diagnoses are unknown")
    codes = {code for code in re.split(r"[,\s]+", values["dx"]) if code and code.lower() not in _UNKNOWN}
    bad = sorted(code for code in codes if not code.isdecimal())
    if bad:
        raise ValueError(f"its Dx line has {bad[0]!r}, which is no SNOMED CT code")
    return Comments(
        frozenset(codes), _parse_age(values.get("age", "")), _SEXES.get(values.get("sex", "").lower(), math.nan)
    )


def _parse_age(text: str) -> float:
    try:
        age = float(text)
    except ValueError:
        return math.nan
    return age if age >= 0 else math.nan


def _find_headers(config: Challenge2021Config) -> list[Path]:
    """Return the paths of the records asked for, without a suffix, sorted by name."""
    folder = Path(config.source).absolute()  # workers run in other folders
    every = sorted((path.with_suffix("") for path in folder.rglob("*.hea")), key=lambda path: (path.name, path))
    if not every:
        raise ValueError(
            f"{config.source} has no .hea file at any depth; the folder of the Challenge's records is needed"
        )
    for path, following in pairwise(every):
        if path.name == following.name:
            raise ValueError(f"record {path.name} is there twice, as {path}.hea and {following}.hea; keep one of them")
    if config.datasets is None:
        return every
    present = Counter(source_set(path.name) for path in every)
    absent = [name for name in config.datasets if not present[name]]
    if absent:
        raise ValueError(
            f"{config.source} has no record of {absent[0]}; it has: "
            f"{', '.join(f'{name} {n:,}' for name, n in present.items() if name) or 'none of the known sets'}"
        )
    return [path for path in every if source_set(path.name) in config.datasets]


def _read_headers(paths: Iterable[Path]) -> tuple[list[Found], list[Quarantined]]:
    records, quarantined = [], []
    for path in paths:
        try:
            text = path.with_name(f"{path.name}.hea").read_text(encoding="utf-8", errors="replace")
            records.append(Found(path, source_set(path.name), parse_comments(text)))
        except UNREADABLE as error:
            quarantined.append(Quarantined(path.name, reason(error)))
    return records, quarantined


def _assign(records: Sequence[Found], config: Challenge2021Config) -> Split:
    """Return each record's fold: of the published split, or stratified by the scored classes."""
    record_ids = [record.record_id for record in records]
    if config.split is not None:
        return read_split(config.split, record_ids)
    if len(records) < config.n_folds:
        raise ValueError(
            f"{config.source}: {config.n_folds} folds need at least as many records, but there are {len(records)} "
            "with a good header; add records, or ask for fewer folds with n_folds (--n-folds)"
        )
    scored_NK = scored_rule().binarise([record.comments.codes for record in records])
    folds_N = stratified_folds(scored_NK, np.array(record_ids), config.seed, config.n_folds)
    return Split(dict(zip(record_ids, folds_N.tolist(), strict=True)), ())


def _rules(records: Sequence[Found], count_above: int) -> tuple[list[LabelRule], list[str]]:
    """Return the rules of the label sets that hold for these records, and what a user must know of them."""
    counts = Counter(record.source_set for record in records)
    sets = [name for name in SOURCE_SETS if counts[name]]
    rules = [scored_rule(), all_rule(set().union(*(record.comments.codes for record in records)))]
    notes = [
        f"records by source set: {', '.join(f'{name} {counts[name]:,}' for name in sets) or 'none is known'}; "
        f"meta source_set counts from 0: {', '.join(SOURCE_SETS)}",
        "the Challenge gives no patient ids: a patient with several records may be in several folds",
    ]
    if counts[None]:
        notes.append(
            f"{counts[None]:,} records are of no known source set; adagrad_fusion, which counts by set, is left out"
        )
    else:
        rules.append(adagrad_fusion_rule([COUNT_COLUMNS[name] for name in sets], count_above))
    if set(counts) <= {"chapman", "ningbo"}:
        rules.append(chapman_rhythm_rule())
    return rules, notes


def _source_index(name: SourceSet | None) -> float:
    return math.nan if name is None else float(SOURCE_SETS.index(name))
