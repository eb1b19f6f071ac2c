"""What a frozen function makes of the records of a store, computed once and kept on disk for all trials.

B, N: records, L: leads, T: timesteps.

A function that no trial changes - a backbone below its first trained layer, an expert - answers the same for a record
in every trial and every epoch. Its answers are kept beside the store, one file a function and split, and are read
memory-mapped: the processes of a machine share one copy, and nothing is copied until a batch is made. A file is there
whole or not at all; of several trials that want it at once, one computes and the others wait.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import Dataset, Source, Split
from data.memory import MemorySplit
from trainables.backbones.backbone import FIRST_LAYER
from trainables.backbones.classifier import BackboneClassifier
from trainables.backbones.config import BackboneConfig
from trainables.config import TrainConfig

FORMAT: Final = 1  # raised where equal keys would mean other numbers
BATCH_RECORDS: Final = 64
FREE_DISK_SHARE: Final = 0.5  # that one file may take: checkpoints want to be written too

Features = NDArray[np.float32]


@dataclass(frozen=True)
class FrozenFunction:
    """A function of records that no trial changes.

    Attributes:
        name: begins the name of its files.
        digest: of all that its answers follow from but the records; see `digest_of`.
        compute: ecg_BLT on `device` -> answers, whose first axis is the record's; each follows from its record alone.
    """

    name: str
    digest: str
    compute: Callable[[Tensor], Tensor]
    device: torch.device

    def answer(self, ecg_BLT: Features) -> Features:
        """Ask for some records, without gradients; the answers are on the CPU."""
        with torch.inference_mode():
            answer = self.compute(torch.from_numpy(ecg_BLT).to(self.device))
            return answer.float().cpu().numpy().astype("<f4", copy=False)


def digest_of(modules: Iterable[nn.Module], *facts: object) -> str:
    """Return the sha256 of the modules' parameters and buffers, bit for bit, and of `facts` as text."""
    sha = hashlib.sha256(repr((FORMAT, facts)).encode())
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@dataclass(frozen=True)
class FeatureCache:
    """A folder of answers. Nothing in it is needed: it may be deleted whenever no trial runs."""

    folder: Path

    @staticmethod
    def beside(source: Source) -> FeatureCache:
        """Return the cache of a store, `STORE.features`."""
        return FeatureCache(source.store.with_name(f"{source.store.name}.features"))

    def get(self, function: FrozenFunction, split: Split, source: Source) -> Features:
        """Return the answers of `function` for every record of `split`, in its order; read-only, memory-mapped.

        Raises:
            ValueError: the disk has no room for them, or can't be written; one line, with the ways out.
        """
        path = self.path_of(function, split, source)
        try:
            if not path.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(path.with_suffix(".lock")):
                    if not path.exists():  # another trial may have been first
                        _write_whole(path, function, split)
            features: Features = np.load(path, mmap_mode="r")
        except OSError as error:
            raise ValueError(f"features can't be kept in {self.folder} ({error.strerror}); {WAYS_OUT}") from error
        return features

    def path_of(self, function: FrozenFunction, split: Split, source: Source) -> Path:
        """Return the file of a function's answers: its name says what they follow from."""
        sha = hashlib.sha256(f"{function.digest} {source.fingerprint} {source.preprocessing}".encode())
        sha.update("\0".join(split.record_ids.tolist()).encode())
        return self.folder / f"{function.name}-{sha.hexdigest()[:32]}.npy"


WAYS_OUT: Final = "make room, delete the features of other stores, or compute them anew in each trial"


def _write_whole(path: Path, function: FrozenFunction, split: Split) -> None:
    partial = path.with_suffix(".partial")
    try:
        # Written in sequence: a full disk is then an error, where a memory map would end the process.
        with partial.open("wb") as file:
            for answer in _answers(function, split):
                if file.tell() == 0:
                    shape = (split.n_records, *answer.shape[1:])
                    check_room(path.parent, 4 * int(np.prod(shape)))
                    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                file.write(answer.tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _answers(function: FrozenFunction, split: Split) -> Iterator[Features]:
    done = 0
    for batch in split.batches(BATCH_RECORDS):
        assert batch.index_B.tolist() == list(range(done, done + len(batch.index_B)))
        done += len(batch.index_B)
        yield function.answer(batch.ecg_BLT)


def check_room(folder: Path, n_bytes: int) -> None:
    """Refuse a file that would take more than half of the disk's free room.

    Raises:
        ValueError: it would; with the ways out.
    """
    free_bytes = shutil.disk_usage(folder).free
    if n_bytes > FREE_DISK_SHARE * free_bytes:
        raise ValueError(
            f"features take {n_bytes / 1e9:.3g} GB, and at most half of the {free_bytes / 1e9:.3g} GB that are free in "
            f"{folder} may go to them; {WAYS_OUT} (feature_cache: off)"
        )


# ------------------------------------------------------------------ the frozen beginning of a model


def with_cached_prefix(
    model: BackboneClassifier, config: BackboneConfig, dataset: Dataset, device: torch.device
) -> Dataset:
    """Put what the frozen beginning of `model` makes of the records in their place, and let `model` start behind it.

    Losses, metrics and checkpoints stay the same, but for rounding. `dataset` is returned as it is, and `model` left
    alone, where `config.feature_cache` is off, nothing is frozen, records differ between epochs, or come from no store.

    Args:
        model: its weights are loaded, and what is trained wants a gradient.

    Raises:
        ValueError: as `FeatureCache.get`.
    """
    source, stop = dataset.source, model.backbone.split_at()
    is_empty = 0 in (dataset.train.n_records, dataset.val.n_records)  # the trainer will refuse it
    if config.feature_cache == "off" or source is None or stop == 0 or varies(config) or is_empty:
        return dataset
    cache, function = FeatureCache.beside(source), frozen_prefix(model, config, stop, device)
    train, val = (_with_features(split, cache.get(function, split, source)) for split in (dataset.train, dataset.val))
    model.start = stop
    return replace(dataset, train=train, val=val)


def varies(config: TrainConfig) -> bool:
    """Tell whether a model sees a record otherwise in some epoch than in another, or in pieces."""
    augmented = (config.amplitude_scale, config.lead_dropout, config.noise_mv, config.baseline_wander_mv)
    mixed = (config.mixup_alpha, config.cutmix_alpha)
    return config.crop_timesteps is not None or any(augmented) or any(mixed)


def frozen_prefix(model: BackboneClassifier, config: BackboneConfig, stop: int, device: torch.device) -> FrozenFunction:
    """Return the stages of `model` before `stop` as a function; it is moved to `device`, and evaluates."""
    backbone = model.to(device).eval().backbone
    modules = [model.normalise, *(module for stage in range(stop) for module in backbone.modules_of(stage))]
    pooling = (
        stop > FIRST_LAYER and config.pooling == "layer_sum",  # states of all layers, or of the last one
        stop > backbone.n_stages - 2 and config.pooling,
        stop == backbone.n_stages and config.lead_pooling,
    )
    layout = (backbone.architecture, str(backbone.placement), str(model.normalise))
    digest = digest_of(modules, layout, stop, pooling, config.precision, device.type)

    def compute(ecg_BLT: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return model.run(ecg_BLT, 0, stop)

    names = (*backbone.stage_names, "all")
    return FrozenFunction(f"{config.backbone}_{config.size}-before_{names[stop]}", digest, compute, device)


def _with_features(split: Split, features: Features) -> Split:
    return MemorySplit(features, split.length_N, split.labels_NK, split.record_ids, split.patient_ids)
