"""Bundle a pretrained encoder with this repository: `python -m platform.bundle RUN [RUN ...] --name NAME`.

Takes the encoder of the last run's best trial, and writes three files to trainables/backbones/bundled:
NAME.safetensors, the encoder in the names of `transformers`, without heads; NAME.json, its card: data, commands, time;
NAME.records, a hash of every record that any of the runs has trained or selected on, a line each. A run that began from
another's weights is named behind it: all that an encoder has seen stands in its card.

Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data.loading import Role, build_plan, check_shards, select_role
from data.record_hashes import hash_records
from data.store import read_manifest
from platform.command_line import BAD_INPUT, OneLineParser, one_line
from platform.journal import read_events, replay
from platform.trained_model import BEST_FOLDER, WEIGHTS_NAME, read_trained_model
from trainables.backbones.weights import BUNDLED
from trainables.checkpoint import load_weights, save_weights, write_whole
from trainables.hubert_ecg_weights import network_tensors

MOST_BYTES = 3_000_000
NAME = re.compile(r"[a-z0-9_]+")
ROLES: tuple[Role, ...] = ("train", "val")


class Seen(BaseModel):
    """What one run has shown the encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    source: str
    fingerprint: str
    folds: dict[str, tuple[int, ...]]
    n_records: int
    command: str
    elapsed_s: float
    metrics: dict[str, float]  # of the best trial on validation


class BundledCard(BaseModel):
    """What stands beside bundled weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    method: str
    params: dict[str, object]
    fs_hz: float
    preprocess: tuple[dict[str, object], ...]
    n_parameters: int
    seen: tuple[Seen, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    parser = OneLineParser(prog="python -m platform.bundle", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="sweeps' folders, in the order of training")
    parser.add_argument("--name", required=True, help="such as hubert_ecg_tiny, wav2vec2_tiny, ecg_fm_tiny")
    parser.add_argument("--out", type=Path, default=BUNDLED, help=f"default: {BUNDLED.name}/ of the backbones")
    options = parser.parse_args(arguments)
    try:
        print(bundle(options.runs, options.name, options.out))
    except (ValueError, OSError) as error:
        print(f"platform.bundle: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    return 0


def bundle(runs: Sequence[Path], name: str, out: Path) -> str:
    """Write the three files, and say what they are.

    Raises:
        ValueError: the last run trained no encoder, the encoder is too large, or the name is none.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"--name must be of small letters, digits and _, got {name!r}")
    trained = read_trained_model(runs[-1])
    if trained.method.tasks != {"unlabelled"}:
        raise ValueError(
            f"{runs[-1]} is of method {trained.card.method}, which pretrains no encoder; give one that does"
        )
    tensors = network_tensors(load_weights(runs[-1] / BEST_FOLDER / WEIGHTS_NAME))
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    if n_bytes > MOST_BYTES:
        raise ValueError(
            f"a bundled encoder may take {MOST_BYTES:,} bytes, but {name} has {n_bytes:,}; take size: tiny"
        )
    card = BundledCard(
        name=name,
        method=trained.card.method,
        params=trained.card.params,
        fs_hz=trained.card.data.signal.fs_hz,
        preprocess=tuple(step.model_dump(mode="json", exclude_none=True) for step in trained.card.data.preprocess),
        n_parameters=sum(tensor.numel() for tensor in tensors.values()),
        seen=tuple(_seen(run) for run in runs),
    )
    hashes = sorted({each for run in runs for each in _record_hashes(run)})
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / f"{name}.safetensors", tensors)
    text = card.model_dump_json(indent=2) + "\n"
    write_whole(out / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))
    lines = "".join(f"{each}\n" for each in hashes)
    write_whole(out / f"{name}.records", lambda path: path.write_text(lines, encoding="utf-8"))
    return (
        f"{out / name}.safetensors: {card.n_parameters:,} parameters, {n_bytes:,} bytes, {len(hashes):,} records seen"
    )


def _seen(run: Path) -> Seen:
    card = read_trained_model(run).card
    record = replay(list(read_events(run)))
    manifest = read_manifest(Path(card.data.config.store))
    return Seen(
        kind=manifest.kind,
        source=Path(manifest.source).name,
        fingerprint=manifest.fingerprint,
        folds={role: card.data.folds[role] for role in ROLES},
        n_records=len(list(_record_hashes(run))),
        command=record.opened[-1].body["command"],
        elapsed_s=sum(end - start for start, end in record.sessions),
        metrics=card.val,
    )


def _record_hashes(run: Path) -> Iterator[str]:
    config = read_trained_model(run).card.data.config
    plan = build_plan(config)
    checked = check_shards(config, plan, ("" for _ in plan.shards))
    kind = read_manifest(plan.store).kind
    for role in ROLES:
        yield from hash_records(kind, select_role(plan, checked, role).record_ids.tolist())


if __name__ == "__main__":
    sys.exit(main())
