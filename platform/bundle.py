"""Bundle a pretrained encoder with this repository: `python -m platform.bundle RUN [RUN ...] --name NAME`.

Takes the encoder of the last run's best trial, and writes three files to trainables/backbones/bundled:
NAME.safetensors, the encoder in the names of `transformers`, without heads; NAME.json, its card: data and their
licences, commands, time, parameters, metrics; NAME.records, a hash of every record that any of the runs has trained or
selected on, a line each. A run that began from another's weights is named behind it: all that an encoder has seen
stands in its card.

Exit codes: 0 done, 2 bad input (one line on stderr, nothing on disk).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from data.kinds.joined import KIND as JOINED
from data.kinds.joined import SEPARATOR
from data.loading import Role, build_plan, check_shards, select_role
from data.record_hashes import hash_records
from data.store import read_manifest
from platform.command_line import BAD_INPUT, OneLineParser, one_line
from platform.models.trained_model import BEST_FOLDER, WEIGHTS_NAME, read_trained_model
from platform.sweeps.journal import read_events, replay
from trainables.checkpoint import load_weights, save_weights, write_whole
from trainables.hubert_ecg_weights import network_tensors
from trainables.weight_files import BUNDLED

MOST_BYTES = 3_000_000
NAME = re.compile(r"[a-z0-9_]+")
ROLES: tuple[Role, ...] = ("train", "val")


LICENCES: Mapping[str, str] = MappingProxyType(
    {
        "challenge2017": "ODC-BY 1.0",
        "challenge2021": "CC BY 4.0",
        "code15": "CC BY 4.0",
        "mitdb": "ODC-BY 1.0",
        "ptbxl": "CC BY 4.0",
        "sph": "CC BY 4.0",
        "synthetic": "made by this project",
    }
)
"""Of the data sets, as their publishers say."""
OTHER_LICENCE = "its publisher's"


class SeenKind(BaseModel):
    """How many records of one kind of data set a run has shown the encoder, and under which licence they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_records: int
    licence: str


class Seen(BaseModel):
    """What one run has shown the encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: dict[str, SeenKind]
    fingerprint: str  # of the store
    folds: dict[str, tuple[int, ...]]
    command: str
    elapsed_s: float
    params: dict[str, object]
    preprocess: tuple[dict[str, object], ...]
    metrics: dict[str, float]  # of the best trial on validation


class BundledCard(BaseModel):
    """What stands beside bundled weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    method: str
    fs_hz: float
    n_parameters: int
    n_records: int  # different ones
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
    hashes = sorted({each for run in runs for each in hash_records(*_records(run))})
    card = BundledCard(
        name=name,
        method=trained.card.method,
        fs_hz=trained.card.data.signal.fs_hz,
        n_parameters=sum(tensor.numel() for tensor in tensors.values()),
        n_records=len(hashes),
        seen=tuple(_seen(run) for run in runs),
    )
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
    kind, record_ids = _records(run)
    counts = Counter(each.partition(SEPARATOR)[0] if kind == JOINED else kind for each in record_ids)
    return Seen(
        kinds={
            each: SeenKind(n_records=number, licence=LICENCES.get(each, OTHER_LICENCE))
            for each, number in sorted(counts.items())
        },
        fingerprint=read_manifest(Path(card.data.config.store)).fingerprint,
        folds={role: card.data.folds[role] for role in ROLES},
        command=record.opened[-1].body["command"],
        elapsed_s=sum(end - start for start, end in record.sessions),
        params={name: _portable(value, run) for name, value in card.params.items()},
        preprocess=tuple(step.model_dump(mode="json", exclude_none=True) for step in card.data.preprocess),
        metrics=card.val,
    )


def _portable(value: object, run: Path) -> object:
    """Return a parameter without the place of this machine: what lies in the run's chain is named from there."""
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path, chain = Path(value), run.absolute().parent
    return path.relative_to(chain).as_posix() if path.is_relative_to(chain) else path.name


def _records(run: Path) -> tuple[str, list[str]]:
    """Return the kind of a run's store, and the records that it has trained or selected on."""
    config = read_trained_model(run).card.data.config
    plan = build_plan(config)
    checked = check_shards(config, plan, ("" for _ in plan.shards))
    ids = [select_role(plan, checked, role).record_ids.tolist() for role in ROLES]
    return read_manifest(plan.store).kind, [each for role in ids for each in role]


if __name__ == "__main__":
    sys.exit(main())
