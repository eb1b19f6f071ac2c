"""`python -m platform.predict`: any file, the run's own preprocessing, a table and pictures."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import h5py
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from data.leads import LEADS_12
from data.store import read_manifest, read_shard
from platform import predict
from platform.models.predictions import Caller, Prediction, write_predictions
from platform.models.trained_model import read_trained_model
from tests.platform.small_run import SmallRun, make_run, make_store
from trainables.evaluation import predict as predict_split

FS_HZ = 50


@pytest.fixture(scope="module")
def ecg_NLT(small_run: SmallRun) -> NDArray[np.float32]:
    (shard, *_) = read_manifest(small_run.store).shards
    return read_shard(small_run.store, shard).ecg_NLT


def rows(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, str]]:
    """Run the command, which must succeed, and return the rows of its table."""
    code = predict.main(list(map(str, arguments)))
    output = capsys.readouterr()
    assert code == 0, output.err
    return list(csv.DictReader(io.StringIO(output.out)))


def numbers(row: dict[str, str]) -> list[float]:
    return [float(value) for key, value in row.items() if key not in ("record_id", "called")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, which must refuse its input in one line, and return that."""
    code = predict.main(list(map(str, arguments)))
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert output.err.count("\n") == 1 and output.err.startswith("platform.predict: ")
    return output.err


def test_a_store_gets_the_probabilities_that_evaluation_gives(
    small_run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    from data.loading import read_dataset

    trained = read_trained_model(small_run.folder)
    validation = read_dataset(trained.card.data.config, ("val",)).dataset.val
    logits_NK = predict_split(trained.model, validation, trained.config, trained.card.data.label_set)
    expected_NK = torch.sigmoid(torch.from_numpy(logits_NK)).numpy()
    found = {row["record_id"]: row for row in rows(capsys, small_run.folder, small_run.store)}
    assert len(found) == 120
    label_names = trained.card.data.label_set.names
    assert list(found["p0000000-1"]) == ["record_id", *label_names, "called"]
    for record_id, expected_K in zip(validation.record_ids.tolist(), expected_NK, strict=True):
        assert numbers(found[record_id]) == pytest.approx(expected_K.tolist(), abs=1e-5)
        called = {
            name for name, value in zip(label_names, expected_K, strict=True) if value >= trained.card.thresholds[name]
        }
        assert set(filter(None, found[record_id]["called"].split("; "))) == called


def test_pytorch_and_onnxruntime_agree_for_the_best_trial_and_for_any_other(
    small_run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for trial in ([], ["--trial", "t0001"]):
        for engine in ([], ["--onnx"]):
            table = rows(capsys, small_run.folder, small_run.store, "--batch-size", 50, *trial, *engine)
            answers.append(np.array([numbers(row) for row in table]))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    np.testing.assert_allclose(answers[2], answers[3], atol=1e-5)
    assert np.abs(answers[0] - answers[2]).max() > 1e-3


def test_every_format_gives_the_same_row(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ecg_LT = ecg_NLT[7]
    np.save(tmp_path / "a.npy", ecg_LT)
    table = pd.DataFrame(ecg_LT.T, columns=LEADS_12)
    table.to_csv(tmp_path / "b.csv", index=False)
    table[table.columns[::-1]].to_parquet(tmp_path / "c.parquet")  # another order of leads
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["ecg"] = ecg_LT
    names = ("a.npy", "b.csv", "c.parquet", "d.h5")
    found = rows(capsys, small_run.folder, *(tmp_path / name for name in names), "--fs-hz", FS_HZ)
    assert [row["record_id"] for row in found] == ["a", "b", "c", "d"]
    expected = numbers(rows(capsys, small_run.folder, small_run.store)[7])
    for row in found:
        assert numbers(row) == pytest.approx(expected, abs=1e-5)


def test_a_record_of_another_rate_is_resampled_first(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow_LT = scipy_signal.resample_poly(ecg_NLT[3].astype(float), 1, 2, axis=1, padtype="line")
    back_LT = scipy_signal.resample_poly(slow_LT, 2, 1, axis=1, padtype="line")
    np.save(tmp_path / "slow.npy", slow_LT)
    np.save(tmp_path / "back.npy", back_LT)
    (slow,) = rows(capsys, small_run.folder, tmp_path / "slow.npy", "--fs-hz", FS_HZ / 2)
    (back,) = rows(capsys, small_run.folder, tmp_path / "back.npy", "--fs-hz", FS_HZ)
    assert numbers(slow) == pytest.approx(numbers(back), abs=1e-4)


def test_missing_leads_are_computed_or_refused_or_zero(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [0, 1, 6, 7, 8, 9, 10, 11]
    leads = ",".join(np.array(LEADS_12)[kept])
    np.save(tmp_path / "eight.npy", ecg_NLT[5][kept])
    code = predict.main([str(small_run.folder), str(tmp_path / "eight.npy"), "--fs-hz", "50", "--leads", leads])
    output = capsys.readouterr()
    assert code == 0
    assert "missing leads III, aVR, aVL, aVF are computed from I and II" in output.err
    (eight,) = csv.DictReader(io.StringIO(output.out))
    expected = rows(capsys, small_run.folder, small_run.store)[5]
    assert numbers(eight) == pytest.approx(numbers(expected), abs=1e-4)

    np.save(tmp_path / "two.npy", ecg_NLT[5][:2])
    arguments = (small_run.folder, tmp_path / "two.npy", "--fs-hz", FS_HZ, "--leads", "I,II")
    assert "the model's lead V1 is missing" in refused(capsys, *arguments)
    zeroed_LT = ecg_NLT[5].copy()
    zeroed_LT[6:] = 0
    np.save(tmp_path / "zeroed.npy", zeroed_LT)
    (two,) = rows(capsys, *arguments, "--zero-missing-leads")
    (expected,) = rows(capsys, small_run.folder, tmp_path / "zeroed.npy", "--fs-hz", FS_HZ)
    assert numbers(two) == pytest.approx(numbers(expected), abs=1e-4)


def test_gaps_are_refused_or_filled(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ecg_LT = ecg_NLT[0].copy()
    ecg_LT[2, 10:14] = np.nan
    np.save(tmp_path / "gaps.npy", ecg_LT)
    arguments = (small_run.folder, tmp_path / "gaps.npy", "--fs-hz", FS_HZ)
    assert "4 values are not finite; --nan zero or interpolate" in refused(capsys, *arguments)
    (row,) = rows(capsys, *arguments, "--nan", "interpolate")
    assert np.isfinite(numbers(row)).all()


def test_a_bad_file_leaves_nothing_behind(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "good.npy", ecg_NLT[0])
    np.save(tmp_path / "microvolts.npy", ecg_NLT[0] * 1000)
    files = [tmp_path / "good.npy", tmp_path / "microvolts.npy"]
    out = ["--fs-hz", FS_HZ, "--out", tmp_path / "out.csv", "--plot", tmp_path / "plots"]
    message = refused(capsys, small_run.folder, *files, *out)
    assert "microvolts.npy" in message and "wrong gain" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.npy", "microvolts.npy"]
    assert "there is no folder" in refused(capsys, small_run.folder, files[0], "--out", tmp_path / "no" / "out.csv")
    assert "has no trial 't9'" in refused(capsys, small_run.folder, files[0], "--trial", "t9")
    assert "is not there" in refused(capsys, tmp_path, files[0])
    assert "is one picture" in refused(
        capsys, small_run.folder, files[0], files[0], "--fs-hz", FS_HZ, "--plot", tmp_path / "one.png"
    )


def test_the_table_goes_to_a_file_and_pictures_to_a_folder(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "ecg.npy", ecg_NLT[:2])
    arguments = (small_run.folder, tmp_path / "ecg.npy", "--fs-hz", FS_HZ)
    assert rows(capsys, *arguments, "--out", tmp_path / "out.csv", "--plot", tmp_path / "plots") == []
    with (tmp_path / "out.csv").open() as file:
        assert list(csv.DictReader(file)) == rows(capsys, *arguments)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["ecg_0.png", "ecg_1.png"]
    picture = matplotlib.image.imread(tmp_path / "plots" / "ecg_0.png")
    blue = (picture[..., 2] - picture[..., 0] > 0.3).any(axis=1)  # paper and ink have none: it is the strip
    assert 10 < blue.sum() < 40


def test_best_may_be_taken_elsewhere(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = shutil.copytree(small_run.folder / "best", tmp_path / "best")
    for file in (small_run.folder, elsewhere):
        (first, *_) = rows(capsys, file, small_run.store)
        assert numbers(first) == pytest.approx(numbers(rows(capsys, elsewhere, small_run.store, "--onnx")[0]), abs=1e-5)


def test_regression_gives_values_in_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path, task="multitask", n_records=60)
    name = next(name for name, each in read_manifest(store).label_sets.items() if each.task == "regression")
    run = make_run(tmp_path, store, [{"zscore": {"per": "global"}}], epochs=1, labels=name)
    table = rows(capsys, run.folder, store)
    trained = read_trained_model(run.folder)
    label_set = trained.card.data.label_set
    units = [f"{label} ({unit})" for label, unit in zip(label_set.names, label_set.units, strict=True)]
    assert list(table[0]) == ["record_id", *units]


def test_what_is_called_follows_the_thresholds_or_is_the_most_probable_class(small_run: SmallRun) -> None:
    card = read_trained_model(small_run.folder).card
    names = card.data.label_set.names
    thresholds = dict(zip(names, np.linspace(0.1, 0.8, 8).tolist(), strict=True))
    caller = Caller(card.model_copy(update={"thresholds": thresholds}))
    assert caller.called(np.full(8, 0.4)) == (0, 1, 2, 3)
    assert caller.text(np.full(8, 0.1)) == names[0]
    assert caller.text(np.zeros(8)) == ""
    assert caller.foremost(np.array([0.2, 0.3, 0, 0, 0, 0, 0, 0.79])) == 1  # the last is not called
    one = card.data.label_set.__class__("any", "multiclass", names)
    multiclass = Caller(card.model_copy(update={"data": card.data.model_copy(update={"label_set": one})}))
    assert multiclass.called(np.arange(8) / 28) == (7,)
    file = io.StringIO()
    write_predictions(file, [Prediction("a,b", np.full(8, 1 / 3))], card)
    assert file.getvalue().splitlines()[1] == '"a,b",' + "0.333333," * 8
