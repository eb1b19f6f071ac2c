"""Bad input: one line, exit code 2, nothing new on disk."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data.ingest import ingest
from data.synthetic import SyntheticConfig, SyntheticReader
from tests.sweeps.workplace import ONE_LEAD, Workplace

BAD_SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "a typo in a key": ({"serch": {}}, r"tiny.yaml.*serch: unknown key.*did you mean 'search'\?"),
    "a typo in a parameter": ({"params": {"lrr": 1e-3}}, r"no parameter of that name.*did you mean 'lr'\?"),
    "a value out of range": ({"params": {"dropout": 1.5}}, r"params.dropout.*got 1.5"),
    "an unknown method": ({"method": "supervized"}, r"must be one of .*did you mean 'supervised'\?"),
    "an unknown sampler": ({"search": {"sampler": "tpa"}}, r"search.sampler.*'tpe'"),
    "no store": ({"data": {"store": "nowhere"}}, r"nowhere"),
    "more CPUs than there are": ({"resources": {"cpus": 64}}, r"a trial needs 64 CPUs.*the cluster has 2.*lower"),
    "more GPUs than there are": ({"resources": {"gpus": 64}}, r"a trial needs 1 CPUs and 64 GPUs"),
    "a worker group that does not fit": ({"resources": {"workers": 3}}, r"a trial needs 3 CPUs"),
}
BAD_DATA: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown label set": ({"labels": "rythm"}, r"no label set 'rythm'.*It has: "),
    "another fingerprint": ({"fingerprint": "0123456789"}, r"has the fingerprint .* but data.fingerprint asks for"),
    "another synthetic source": ({"synthetic": {**ONE_LEAD, "seed": 5}}, r"was made from .* not from data.synthetic"),
    "folds that the store lacks": ({"folds": {"train": [1], "val": [77]}}, r"role val \(folds 77\) has no records"),
}


BAD_QUANTITIES: dict[str, tuple[dict[str, Any], str]] = {
    "an objective": ({"search": {"metric": "val/aurocc", "mode": "max"}}, r"search.metric: .*mean 'val/auroc'\?"),
    "another task's": ({"search": {"metric": "val/mae", "mode": "min"}}, r"no 'val/mae' where the labels are binary"),
    "a constraint": ({"constraints": ["onnx_byte <= 1e6"]}, r"constraints: onnx_byte <= 1000000: .*'onnx_bytes'\?"),
}


def refuse(place: Workplace, capsys: pytest.CaptureFixture[str], *arguments: str, **sections: Any) -> str:
    """Run what must be refused, check that it left nothing, and return its one line on stderr."""
    spec = place.write(**sections)
    before = place.listing()
    assert place.main(spec, *arguments) == 2
    assert place.listing() == before
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_bad_spec_is_refused(name: str, place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    sections, message = BAD_SPECS[name]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refuse(place, capsys, **sections))


@pytest.mark.parametrize("name", BAD_QUANTITIES)
def test_what_no_trial_reports_is_refused(name: str, place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    sections, message = BAD_QUANTITIES[name]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refuse(place, capsys, **sections))


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_do_not_fit_are_refused(name: str, place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    changes, message = BAD_DATA[name]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refuse(place, capsys, data={**place.spec()["data"], **changes}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "no sweep of 'tiny' under"),
        (["--resume", "runs/nothing-001"], "runs/nothing-001: not a sweep's folder"),
        (["--set", "budget.trails=3"], "budget.trails: unknown key"),
        (["--set", "budget.trials"], "must be KEY=VALUE"),
    ],
)
def test_a_bad_command_line_is_refused(
    arguments: list[str], message: str, place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refuse(place, capsys, *arguments)


def test_a_missing_spec_is_refused(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.main("nothing.yaml") == 2
    assert "nothing.yaml: no such file" in capsys.readouterr().err
    assert place.listing() == []


@pytest.fixture
def damaged(place: Workplace) -> Workplace:
    """Return a place with a store of its own, `damaged`, one of whose three shards is corrupt."""
    store = place.folder / "damaged"
    ingest(SyntheticReader(SyntheticConfig.model_validate(ONE_LEAD), blocks_a_chunk=1), store)
    shards = json.loads((store / "dataset.json").read_text(encoding="utf-8"))["shards"]
    assert len(shards) > 1
    shard = store / shards[0]["file"]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    return place


def test_a_corrupt_shard_is_named(damaged: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    line = refuse(damaged, capsys, data={"store": str(damaged.folder / "damaged")})
    assert "is corrupt" in line
    assert ".h5" in line or ".parquet" in line
    assert "skip_bad_records: true" in line


def test_a_sweep_goes_on_without_corrupt_shards_where_told_to(
    damaged: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    code = damaged.sweep(
        data={"store": str(damaged.folder / "damaged"), "skip_bad_records": True},
        params={"model": "cnn", "depth": 2, "channels": 4},
        budget={"epochs": 1},
    )
    assert code == 0
    n_bad = damaged.events()[0].body["n_bad_records"]
    assert n_bad > 0
    assert f"{n_bad} records of corrupt shards are left out" in capsys.readouterr().out
    assert f"{n_bad} records of corrupt shards" in (damaged.runs / "tiny-001" / "report.html").read_text()


def test_a_dry_run_starts_and_writes_nothing(
    offline: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("a dry run starts Ray"))
    spec = offline.write()
    before = offline.listing()
    assert offline.main(spec, "--dry-run") == 0
    assert offline.listing() == before
    assert "nothing was started" in capsys.readouterr().out
