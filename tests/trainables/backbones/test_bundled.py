"""Bundled encoders: small, documented, and never shown a record that they are evaluated on."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import pytest

from data.record_hashes import hash_records
from platform.bundle import LICENCES, MOST_BYTES, BundledCard
from trainables.checkpoint import load_weights
from trainables.weight_files import BUNDLED

NAMES = sorted(path.stem for path in BUNDLED.glob("*.safetensors"))
EVALUATED_KINDS = {"mitdb", "segments_csv", "iesd"}  # MIT-BIH, and what is cut from it and from Challenge 2017 N, A
PTBXL_IN_CHALLENGE2021 = [f"HR{number:05d}" for number in range(1, 21838)]


def held_out(recordings: Path) -> set[str]:
    """Return the hashes of what bundled encoders are evaluated on: PTB-XL folds 9 and 10, Challenge 2017 N and A."""
    hashes = set(hash_records("challenge2021", PTBXL_IN_CHALLENGE2021))
    with (recordings / "ptbxl" / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(float(row["strat_fold"])) >= 9]
    hashes |= set(hash_records("ptbxl", [str(int(float(row["ecg_id"]))) for row in rows]))
    with (recordings / "challenge2017" / "subset_labels.csv").open(newline="", encoding="utf-8") as file:
        evaluated = [record for record, label, *_ in csv.reader(file) if label in ("N", "A")]
    return hashes | set(hash_records("challenge2017", evaluated))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_encoder_is_small_and_has_its_card(name: str) -> None:
    path = BUNDLED / f"{name}.safetensors"
    assert path.stat().st_size <= MOST_BYTES
    card = BundledCard.model_validate_json((BUNDLED / f"{name}.json").read_bytes())
    assert card.name == name
    assert card.n_parameters == sum(tensor.numel() for tensor in load_weights(path).values())
    assert all(seen.command and seen.elapsed_s for seen in card.seen)
    kinds = {kind: each.licence for seen in card.seen for kind, each in seen.kinds.items()}
    assert kinds and kinds.keys() <= LICENCES.keys(), "bundled weights come from data with a known licence"
    assert not kinds.keys() & EVALUATED_KINDS
    hashes = (BUNDLED / f"{name}.records").read_text(encoding="utf-8").split()
    assert len(set(hashes)) == card.n_records


@pytest.mark.parametrize("name", NAMES)
def test_no_bundled_encoder_has_seen_a_record_that_it_is_evaluated_on(name: str, recordings: Path) -> None:
    seen = set((BUNDLED / f"{name}.records").read_text(encoding="utf-8").split())
    assert seen
    assert seen & held_out(recordings) == set()


def test_the_held_out_records_are_found(recordings: Path) -> None:
    """The test above would also pass on an empty set: hashes made as the store makes ids must meet it."""
    hashes = held_out(recordings)
    assert set(hash_records("challenge2017", ["A00002", "A00004"])) <= hashes
    assert len(hashes) > len(PTBXL_IN_CHALLENGE2021) + 700
    with zipfile.ZipFile(next((recordings / "challenge2017").glob("*.zip"))) as archive:
        ids = {Path(name).stem for name in archive.namelist() if name.endswith(".hea")}
    assert len(set(hash_records("challenge2017", ids)) & hashes) == 700


def test_the_card_is_json() -> None:
    for name in NAMES:
        json.loads((BUNDLED / f"{name}.json").read_text(encoding="utf-8"))
