"""Synthetic ECG data sets: no download, any size, and labels that are known to be true.

Records are made in blocks of `PATIENTS_A_BLOCK` patients, each block from its own spawned seed, so a
record depends on the task, the seed, its shape and its place alone: not on how many records are made,
in which chunks or in which process. N records, L leads, T timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.ecg_generator import LEADS_1, LEADS_12, draw_ecg
from data.ecg_population import RECORDS_A_PATIENT, TASKS, Case, PatientDraw, TaskName, draw_people
from data.reader import Header, RecordBlock, join_blocks

PATIENTS_A_BLOCK: Final = 50
GENERATOR: Final = 1
"""Grows whenever the same config comes to make other records, so that no store from before is taken for a new one."""

_FOLDS: Final = {"train": tuple(range(1, 9)), "val": (9,), "test": (10,)}
_N_FOLDS: Final = 10


class SyntheticConfig(BaseModel):
    """What a synthetic data set holds. `n_leads`, `fs_hz` and `duration_s` default to the task's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskName = Field(description="`rhythm`, `morphology`, `af_segments`, `beats` or `multitask`")
    n_records: Annotated[int, Field(ge=50, le=10_000_000)] = Field(
        default=4000, description="records; at least 50, so that each of the ten folds has a patient"
    )
    n_leads: Literal[1, 12] = Field(default=12, description="12, or 1 (lead II)")
    fs_hz: Annotated[float, Field(ge=50, le=1000)] = Field(default=100.0, description="timesteps a second, Hz")
    duration_s: Annotated[float, Field(ge=1, le=60)] = Field(default=10.0, description="length of a record, s")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of all records")

    @model_validator(mode="before")
    @classmethod
    def _take_task_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("task") not in get_args(TaskName):
            return values
        task = TASKS[values["task"]]
        return {"n_leads": task.n_leads, "fs_hz": task.fs_hz, "duration_s": task.duration_s, **values}

    @model_validator(mode="after")
    def _check_shape(self) -> SyntheticConfig:
        if TASKS[self.task].n_leads == 1 and self.n_leads != 1:
            raise ValueError(f"task {self.task!r} has 1 lead, but got n_leads={self.n_leads}; leave n_leads out")
        if self.task == "beats" and self.n_timesteps != 600:
            raise ValueError(
                f"task 'beats' has 600 timesteps, but {self.fs_hz=:g} x {self.duration_s=:g} are {self.n_timesteps}; "
                "set duration_s = 600 / fs_hz, or leave both out"
            )
        return self

    @property
    def n_timesteps(self) -> int:
        return round(self.fs_hz * self.duration_s)


def stored_options(config: SyntheticConfig) -> dict[str, Any]:
    """Return what a store says that it was made from."""
    return {"generator": GENERATOR, **config.model_dump(mode="json")}


@dataclass(frozen=True)
class BlockRange:
    """Blocks of patients from `first` up to and not including `stop`."""

    first: int
    stop: int


class SyntheticReader:
    """Make the records of a `SyntheticConfig`; a `data.reader.Reader`.

    The ten folds go round by patient: 1-8 train, 9 validation, 10 test.

    Args:
        blocks_a_chunk: blocks (50 patients, about 110 records) in a chunk; has no effect on the records.
    """

    def __init__(self, config: SyntheticConfig, blocks_a_chunk: int = 4) -> None:
        if blocks_a_chunk < 1:
            raise ValueError(f"`blocks_a_chunk >= 1` must hold, but got {blocks_a_chunk}")
        self._config = config
        self._task = TASKS[config.task]
        self._blocks_a_chunk = blocks_a_chunk
        self._n_blocks, self._n_last = _count_blocks(config)

    @property
    def header(self) -> Header:
        config = self._config
        return Header(
            kind="synthetic",
            source=f"synthetic {config.task}",
            options=stored_options(config),
            lead_names=LEADS_12 if config.n_leads == 12 else LEADS_1,
            fs_hz=config.fs_hz,
            n_timesteps=config.n_timesteps,
            label_sets={label_set.name: label_set for label_set in self._task.label_sets},
            folds=_FOLDS,
            patients_known=True,
            notes=("the records are synthetic",),
        )

    def chunks(self) -> Sequence[BlockRange]:
        starts = range(0, self._n_blocks, self._blocks_a_chunk)
        return [BlockRange(first, min(first + self._blocks_a_chunk, self._n_blocks)) for first in starts]

    def read(self, chunk: BlockRange) -> RecordBlock:
        """Make the records of one chunk; runs in any process.

        Raises:
            ValueError: the chunk is not one of this data set.
        """
        if not 0 <= chunk.first < chunk.stop <= self._n_blocks:
            raise ValueError(
                f"`0 <= first < stop <= {self._n_blocks}` must hold, but got {chunk}; take it from chunks()"
            )
        return join_blocks([self._draw_block(block) for block in range(chunk.first, chunk.stop)])

    def draw_case(self, block: int) -> Case:
        """Return what the records of one block are made from: parameters, beats and labels.

        The block is whole: in the last one, more records than `n_records` asks for.
        """
        return self._draw_people_and_case(block)[2]

    def _draw_people_and_case(self, block: int) -> tuple[PatientDraw, NDArray[np.float32], Case]:
        rng = _block_rng(self._config, block)
        n_records_P = _draw_records_a_patient(rng)
        draw = PatientDraw(rng, np.repeat(np.arange(PATIENTS_A_BLOCK), n_records_P), PATIENTS_A_BLOCK)
        people = draw_people(draw)
        case = self._task.draw(draw, people, self._config.duration_s)
        return draw, np.stack([people.age_y, people.female], axis=1).astype(np.float32), case

    def _draw_block(self, block: int) -> RecordBlock:
        config = self._config
        draw, age_sex_N2, case = self._draw_people_and_case(block)
        ecg_NLT = draw_ecg(
            draw.rng,
            case.physiology,
            case.noise,
            case.beats,
            fs_hz=config.fs_hz,
            n_timesteps=config.n_timesteps,
            n_leads=config.n_leads,
        )
        kept = slice(self._n_last if block == self._n_blocks - 1 else None)
        patient_N = draw.patient_N[kept] + block * PATIENTS_A_BLOCK
        patient_ids = np.array([f"p{patient:07d}" for patient in patient_N])
        return RecordBlock(
            ecg_NLT=ecg_NLT[kept],
            length_N=np.full(len(patient_N), config.n_timesteps, np.int32),
            labels={name: labels_NK[kept] for name, labels_NK in case.labels.items()},
            record_ids=np.array(_number_within(patient_ids)),
            patient_ids=patient_ids,
            folds=(patient_N % _N_FOLDS + 1).astype(np.int16),
            meta={"age": age_sex_N2[kept, 0], "sex": age_sex_N2[kept, 1]},
        )


def _block_rng(config: SyntheticConfig, block: int) -> np.random.Generator:
    task_index = get_args(TaskName).index(config.task)
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(task_index, block)))


def _draw_records_a_patient(rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw the first numbers of a block: (P,) records of each patient."""
    return np.asarray(1 + rng.choice(len(RECORDS_A_PATIENT), PATIENTS_A_BLOCK, p=RECORDS_A_PATIENT), dtype=np.intp)


def _count_blocks(config: SyntheticConfig) -> tuple[int, int]:
    """Return how many blocks hold `n_records`, and how many records of the last one are among them."""
    block, remaining = 0, config.n_records
    while True:
        n_here = int(_draw_records_a_patient(_block_rng(config, block)).sum())
        block += 1
        if n_here >= remaining:
            return block, remaining
        remaining -= n_here


def _number_within(patient_ids: NDArray[np.str_]) -> list[str]:
    """Return record ids: the patient's id and the record's number, from 1."""
    first_N = np.r_[True, patient_ids[1:] != patient_ids[:-1]]
    start_N = np.maximum.accumulate(np.where(first_N, np.arange(len(patient_ids)), 0))
    return [f"{patient}-{n + 1}" for patient, n in zip(patient_ids, np.arange(len(patient_ids)) - start_N, strict=True)]
