"""How fast pretraining is prepared and runs: `python -m benchmarks.pretrain`.

Features (MFCC with differences) and cluster labels of synthetic records, 12 leads x 5 s at 100 Hz, from a store to
Parquet, in records/s: this platform's way through Ray Data, with Ray up; the same functions record by record in one
process; and a plain loop over records, token by token and window by window, with numpy, scipy and scikit-learn.

Masked prediction in tokens/s on one thread: this platform's loop, and a plain loop over `transformers.HubertModel` on
the same batches with the same heads, optimiser and share of masked tokens. The two take turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.codebook import ClusterConfig, Codebook, fit_codebook, unit_rows, write_labels
from data.config import DataConfig
from data.dataset import Dataset
from data.feature_store import FeatureStore, write_features
from data.ingest import ingest_serially
from data.loading import load
from data.mfcc import MfccConfig, mel_filters
from data.parallel import running_ray
from data.store import read_ecg, read_manifest
from data.synthetic import SyntheticConfig, SyntheticReader
from data.token_features import FeatureConfig, extract_features
from data.tokens import TokenGrid
from trainables.hubert_ecg_pretrain import HubertEcgPretrainConfig, build_model, train
from trainables.plain_trial import PlainTrial
from trainables.pretraining.masked_prediction import MaskedPrediction

GRID: Final = TokenGrid(12, 500, 100.0)
FEATURES: Final = FeatureConfig(feature_type="mfcc")
NUM_CLUSTERS: Final = 50
LEAST_SPEEDUP: Final = 10.0
LEAST_RATIO: Final = 0.95
LABELS_NAME, CODEBOOK_NAME = "labels", "codebook"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    torch.set_num_threads(1)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="pretrain-") as name:
        folder = Path(name)
        config = make_store(folder, options.records)
        prepared, speedup = measure_preparation(config, folder, options)
        trained, ratio = measure_training(config, folder, options)
    bars = (Bar(speedup, ">=", LEAST_SPEEDUP), Bar(ratio, ">=", LEAST_RATIO))
    title = f"{options.records:,} records of 12 x 500; HuBERT-ECG {options.size}"
    return conclude(Result(title, machine, (*prepared, speedup, *trained, ratio), bars), options)


def make_store(folder: Path, n_records: int) -> DataConfig:
    """Write the synthetic store."""
    synthetic = SyntheticConfig(task="rhythm", n_records=n_records, n_leads=12, fs_hz=100, duration_s=5)
    ingest_serially(SyntheticReader(synthetic), folder / "store", n_records_per_shard=max(50, n_records // 16))
    return DataConfig(store=str(folder / "store"), labels="none")


# ------------------------------------------------------------------ features and labels


def measure_preparation(
    config: DataConfig, folder: Path, options: argparse.Namespace
) -> tuple[tuple[Figure, ...], Figure]:
    """Return records/s of the three ways, and this platform's over the plain loop's."""
    features = _features(config, folder / "features", parallel=False)
    codebook = fit_codebook(features, ClusterConfig(num_clusters=NUM_CLUSTERS, n_init=2))
    write_labels(codebook, features, folder / CODEBOOK_NAME, parallel=False)
    rates: dict[str, list[float]] = {"Ray Data": [], "record by record": [], "plain loop": []}
    with running_ray(options.cpus):
        _prepare(config, codebook, folder / "warm")  # workers start once
        for number in range(options.repeats):
            rates["Ray Data"].append(_prepare(config, codebook, folder / f"run{number}"))
            rates["record by record"].append(_rate(_vectorised(codebook), _ecg(config, options.loop_records)))
            rates["plain loop"].append(_rate(_plain(codebook), _ecg(config, options.loop_records)))
    figures = tuple(Figure(f"features and labels, {name}", "records/s", tuple(each)) for name, each in rates.items())
    pairs = zip(rates["Ray Data"], rates["plain loop"], strict=True)
    return figures, Figure("Ray Data / plain loop", "", tuple(ours / theirs for ours, theirs in pairs))


def _features(config: DataConfig, out: Path, *, parallel: bool) -> FeatureStore:
    extract = partial(extract_features, grid=GRID, config=FEATURES)
    return write_features(config, extract, FEATURES.model_dump(mode="json"), out, parallel=parallel)


def _prepare(config: DataConfig, codebook: Codebook, out: Path) -> float:
    begin_s = time.perf_counter()
    features = _features(config, out / "features", parallel=True)
    write_labels(codebook, features, out / LABELS_NAME)
    taken_s = time.perf_counter() - begin_s
    return (features.manifest.n_records("train") + features.manifest.n_records("val")) / taken_s


def _ecg(config: DataConfig, n_records: int) -> Iterator[NDArray[np.float32]]:
    store, left = Path(config.store), n_records
    for shard in read_manifest(store).shards:
        for ecg_LT in read_ecg(store, shard):
            if not left:
                return
            left -= 1
            yield ecg_LT


def _rate(label: Any, records: Iterator[NDArray[np.float32]]) -> float:
    begin_s, n_records = time.perf_counter(), 0
    for ecg_LT in records:
        label(ecg_LT)
        n_records += 1
    return n_records / (time.perf_counter() - begin_s)


def _vectorised(codebook: Codebook) -> Any:
    length = np.array([500], np.int32)

    def label(ecg_LT: NDArray[np.float32]) -> NDArray[np.int16]:
        features = extract_features(ecg_LT[None], length, GRID, FEATURES).features_NFD[0]
        return codebook.label(features)

    return label


def _plain(codebook: Codebook) -> Any:
    """Return a loop's body as one would write it: a window, a token, a record at a time."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(codebook.centroids_CD)
    options = MfccConfig()
    filters_BM = mel_filters(128, 100.0, options)

    def label(ecg_LT: NDArray[np.float32]) -> NDArray[np.int64]:
        cepstra = [
            [_cepstrum(lead_T, start, options, filters_BM) for start in range(-24, 472, 16)] for lead_T in ecg_LT
        ]
        rows = []
        for lead in cepstra:
            slopes = [_slope(lead, number) for number in range(len(lead))]
            bends = [_slope(slopes, number) for number in range(len(lead))]
            rows += [np.concatenate(each) for each in zip(lead, slopes, bends, strict=True)]
        tokens = np.array_split(np.array(rows), GRID.n_tokens)
        features = np.array([token.mean(axis=0) for token in tokens], np.float32)
        return np.asarray(nearest.kneighbors(unit_rows(features), return_distance=False)[:, 0])

    return label


def _cepstrum(
    lead_T: NDArray[np.float32], start: int, options: MfccConfig, filters_BM: NDArray[np.float64]
) -> NDArray[np.float64]:
    x = lead_T[np.clip(np.arange(start, start + 64), 0, len(lead_T) - 1)].astype(np.float64)
    x = x - x.mean()
    x = np.append(x[0] * (1 - options.preemphasis), x[1:] - options.preemphasis * x[:-1])
    x = x * np.hanning(64) ** 0.85
    power = np.abs(np.fft.rfft(x, 128)) ** 2
    cepstra = dct(np.log(np.maximum(power @ filters_BM, 1e-7)), norm="ortho")[: options.n_cepstra]
    return np.asarray(cepstra * (1 + 11 * np.sin(np.pi * np.arange(options.n_cepstra) / 22)))


def _slope(values: Sequence[NDArray[np.float64]], number: int) -> NDArray[np.float64]:
    last = len(values) - 1
    reach = [(values[min(last, number + n)] - values[max(0, number - n)]) * n for n in (1, 2)]
    return (reach[0] + reach[1]) / 10


# ------------------------------------------------------------------ masked prediction


def measure_training(
    config: DataConfig, folder: Path, options: argparse.Namespace
) -> tuple[tuple[Figure, ...], Figure]:
    """Return tokens/s of both loops, and the ratio."""
    dataset = load(config)
    params = HubertEcgPretrainConfig(
        size=options.size, codebooks=str(folder / CODEBOOK_NAME), epochs=1, batch_size=options.batch_size, lr=1e-4
    )
    rates: dict[str, list[float]] = {"this platform": [], "transformers.HubertModel": []}
    for _ in range(options.repeats + 1):
        rates["this platform"].append(_train_ours(params, dataset))
        rates["transformers.HubertModel"].append(_train_plainly(params, dataset))
    for values in rates.values():
        values.pop(0)  # the first turn warms up
    figures = tuple(Figure(f"masked prediction, {name}", "tokens/s", tuple(each)) for name, each in rates.items())
    pairs = zip(*rates.values(), strict=True)
    return figures, Figure("this platform / transformers", "", tuple(ours / theirs for ours, theirs in pairs))


def _train_ours(config: HubertEcgPretrainConfig, dataset: Dataset) -> float:
    trial = PlainTrial(0)
    train(config, dataset, trial)
    return trial.reports[1]["tokens_per_s"]


def _train_plainly(config: HubertEcgPretrainConfig, dataset: Dataset) -> float:
    """Train an epoch as the library's own example does."""
    from transformers.models.hubert.modeling_hubert import _compute_mask_indices

    torch.manual_seed(0)
    model = build_model(config, dataset.signal, dataset.label_set)
    assert isinstance(model, MaskedPrediction)
    model.train()
    head = model.projector[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    n_tokens, n_seen = model.n_tokens, 0
    begin_s = time.perf_counter()
    for batch in dataset.train.batches(config.batch_size, shuffle_seed=0):
        shape = (len(batch.index_B), n_tokens)
        mask_BE = torch.from_numpy(_compute_mask_indices(shape, config.mask_prob, 1, min_masks=2)).bool()
        label_M = torch.zeros(int(mask_BE.sum()), dtype=torch.long)
        optimizer.zero_grad()
        wave_BT = torch.from_numpy(batch.ecg_BLT).flatten(1)
        hidden_BEH = model.hubert(wave_BT, mask_time_indices=mask_BE).last_hidden_state
        loss = torch.nn.functional.cross_entropy(head(model.final_dropout(hidden_BEH)[mask_BE]), label_M)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        n_seen += shape[0] * n_tokens
    return n_seen / (time.perf_counter() - begin_s)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way (default: 5)")
    parser.add_argument("--records", type=int, default=4000, help="records of the store (default: 4000)")
    parser.add_argument("--loop-records", type=int, default=50, help="records of the loops (default: 50)")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of the local Ray (default: 2)")
    parser.add_argument("--size", choices=["tiny", "small", "base", "large"], default="tiny", help="(default: tiny)")
    parser.add_argument("--batch-size", type=int, default=32, help="records a step (default: 32)")
    options = parser.parse_args(arguments)
    if min(options.repeats, options.loop_records, options.cpus, options.batch_size) < 1 or options.records < 100:
        parser.error("--records >= 100 and every other number >= 1 must hold")
    return options


if __name__ == "__main__":
    sys.exit(main())
