"""What a sweep of `method: peft` leaves, from checkpoints that were never trained: cells, their tests, the report."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from data.card import DataCard
from data.dataset import Dataset, LabelSet, Signal
from platform.evaluation.held_out import HeldOut
from platform.evaluation.test_result import TestResult
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.methods.peft.cells import both_classes, cell_name, trained_parts
from platform.methods.peft.outcome import conclude_peft
from platform.models.trained_model import BEST_FOLDER, DATA_CARD_NAME, read_trained_model
from platform.pages.markdown import table, to_html
from platform.sweeps.folder import RESULT_FOLDER
from platform.sweeps.journal import Journal, SweepRecord
from tests.platform.small_spec import make_spec
from tests.trainables.tiny_dataset import TinySplit
from trainables.checkpoint import save_weights
from trainables.evaluation import evaluate
from trainables.peft_method import PEFT, PeftConfig, build_model
from trainables.tune_trial import BEST_FILE

SIGNAL = Signal(("II",), 100.0, 160)
LABELS = LabelSet("beats", "binary", ("abnormal",))
PARAMS: dict[str, Any] = {"backbone": "ecg_fm", "size": "tiny", "lr": {"loguniform": [1e-4, 1e-2]}}


def split(n: int, seed: int) -> TinySplit:
    rng = np.random.default_rng(seed)
    ecg_NLT = rng.standard_normal((n, 1, 160)).astype(np.float32)
    return TinySplit(ecg_NLT, (rng.random((n, 1)) < 0.4).astype(np.float32))


class Sweep:
    """A folder with one checkpoint for each of some configurations, and what `conclude_peft` is given."""

    def __init__(self, folder: Path, points: list[dict[str, Any]], patients_known: bool) -> None:
        self.folder, self.record = folder, SweepRecord()
        self.spec = make_spec(PARAMS, method="peft")
        self.journal = Journal(folder)
        self.write("opened", command="COMMAND", spec={"method": "peft", "seed": 3})
        dataset = Dataset(SIGNAL, LABELS, split(30, 0), split(20, 1))
        test = split(25, 2)
        plan = SimpleNamespace(stored_signal=SIGNAL, steps=(), signal=SIGNAL, label_set=LABELS, folds={"test": (10,)})
        shared: Any = SimpleNamespace(signal=SIGNAL, label_set=LABELS, plan=plan, statistics=None, open=lambda: dataset)
        card = DataCard.of(self.spec.data, shared, "f00d")
        (folder / DATA_CARD_NAME).write_text(card.model_dump_json(), encoding="utf-8")
        counts = SimpleNamespace(n_records=30, labels=(12,))
        manifest = SimpleNamespace(fingerprint="f00d", source="tiny", patients_known=patients_known)
        description: Any = SimpleNamespace(manifest=manifest, counts={"train": counts})
        ranked = [self.add(number, point) for number, point in enumerate(points)]
        held_out = HeldOut(lambda: test, LABELS, self.record, self.journal, seed=0)
        self.finished = FinishedSweep(
            self.spec, folder, self.record, description, shared, ranked, held_out, self.test_best(held_out), "cpu"
        )

    def test_best(self, held_out: HeldOut) -> TestResult:
        """Do what a sweep does before its method's own outcome."""
        trained = read_trained_model(self.folder, "t0000")
        best = self.folder / BEST_FOLDER
        best.mkdir()
        judge = partial(evaluate, trained.model, config=trained.config, label_set=LABELS, thresholds_K=np.array([0.5]))
        return held_out.result(best, held_out.count("t0000", **held_out.test(judge, 2.0, best)).body)

    def write(self, kind: Any, trial: str = "", **body: Any) -> None:
        self.record.apply(self.journal.append(kind, trial, **body))

    def add(self, number: int, point: dict[str, Any]) -> Any:
        trial, params = f"t{number:04d}", self.spec.flat_params({"lr": 1e-3, **point})
        self.write("proposed", trial, number=number, params=params, sampled={}, distributions={}, static={})
        metrics = {"val/auroc": 0.9 - number / 100, "val/loss": 0.5, "train/loss": 0.4, "epoch_s": 0.1}
        self.write("reported", trial, epoch=1, metrics={**metrics, "peak_memory_bytes": 1e7})
        self.write("ended", trial, state="COMPLETED", constraints={})
        torch.manual_seed(number)
        model = build_model(PEFT.parse_config(params), SIGNAL, LABELS)
        (self.folder / "trials" / trial).mkdir(parents=True)
        notes = {"epoch": "1", "thresholds": "[0.5]"}
        save_weights(self.folder / "trials" / trial / BEST_FILE, model.state_dict(), notes)
        return self.record.trials[trial]


POINTS: list[dict[str, Any]] = [
    {"tuning": "lora", "rank": 2},
    {"tuning": "houlsby"},
    {"tuning": "lora", "rank": 4},  # of the first one's cell, and worse
    {"tuning": "lora", "normalisation": "global"},
    {"tuning": "full"},
]


@pytest.fixture
def concluded(tmp_path: Path) -> tuple[Sweep, Findings]:
    sweep = Sweep(tmp_path, POINTS, patients_known=False)
    return sweep, conclude_peft(sweep.finished)


def test_every_cell_is_tested_once_and_stands_in_the_table(concluded: tuple[Sweep, Findings]) -> None:
    sweep, findings = concluded
    looks = [event.trial or event.body["finding"]["trial"] for event in sweep.record.tested]
    assert looks == ["t0000", "t0001", "t0003", "t0004"]  # the best by the sweep itself; t0002 is no cell's best
    with (sweep.folder / RESULT_FOLDER / "backbone_x_method.csv").open() as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["t0000", "t0001", "t0003", "t0004"]
    assert rows["t0000"]["cell"] == "ecg_fm-tiny-lora-segment"
    assert int(rows["t0000"]["trainable"]) == 3 * 2 * 2 * (96 + 96) + 97
    assert float(rows["t0000"]["F1 macro low"]) <= float(rows["t0000"]["F1 macro"])
    assert int(rows["t0004"]["saved_bytes"]) > 10 * int(rows["t0000"]["saved_bytes"])
    (shown,) = findings.tables
    assert [[cell.text for cell in row[:3]] for row in shown.rows] == [
        ["ecg_fm tiny", "lora", "segment"], ["ecg_fm tiny", "houlsby", "segment"], ["ecg_fm tiny", "full", "segment"],
    ]  # fmt: skip


def test_the_report_says_random_over_every_table_and_warns_of_leaks(concluded: tuple[Sweep, Findings]) -> None:
    sweep, findings = concluded
    result = sweep.folder / RESULT_FOLDER
    blocks = (result / "report.md").read_text().split("\n\n")
    tables = [number for number, block in enumerate(blocks) if block.startswith(("| ", "!["))]
    assert len(tables) == 9
    assert all(blocks[number - 1].startswith("> backbone weights: random; nothing is pretrained") for number in tables)
    text = "\n".join(blocks)
    assert "has no user ids" in text
    assert "Near-duplicates: 0 of 25 test records correlate by 0.99 or more" in text
    assert "`encoder.layers.{0-2}.attention.q_proj`" in text
    assert any("has no user ids" in note for note in findings.notes)
    page = (result / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert 'src="trade_off.svg"' not in page


def test_a_cell_is_backbone_size_method_and_normalisation() -> None:
    params = make_spec(PARAMS, method="peft").flat_params({"lr": 1e-3})
    assert cell_name(params) == "ecg_fm-tiny-lora-segment"


def test_what_is_trained_is_named_by_the_layer_it_lies_in() -> None:
    layers = frozenset({"encoder", "encoder.layers", "encoder.layers.0.attention.q_proj"})
    config = PeftConfig.model_validate({"backbone": "ecg_fm", "tuning": "lora", "rank": 2})
    with torch.device("meta"):
        model = build_model(config, SIGNAL, LABELS)
    names = {name.removeprefix("backbone.network.").rsplit(".lora_", 1)[0] for name, _ in model.named_parameters()}
    parts = {part.place: part.n_parameters for part in trained_parts(model, frozenset(names) | layers)}
    lora = 3 * 2 * (96 + 96)
    assert parts == {
        "encoder.layers.{0-2}.attention.q_proj": lora,
        "encoder.layers.{0-2}.attention.v_proj": lora,
        "head.1": 97,
    }


def test_macro_scores_of_both_classes_are_scikit_learns_at_the_threshold_too() -> None:
    rng = np.random.default_rng(0)
    labels_N1 = (rng.random((200, 1)) < 0.3).astype(np.float32)
    predicted_N1 = np.round(rng.random((200, 1)), 1)  # many lie on the threshold
    evaluation, names = both_classes(predicted_N1, labels_N1, np.array([0.3]), LABELS, beta=2.0)
    called = predicted_N1[:, 0] >= 0.3
    expected = {
        name: measure(labels_N1[:, 0], called, average="macro")
        for name, measure in {"f1": f1_score, "precision": precision_score, "recall": recall_score}.items()
    }
    assert {name: evaluation.scores.macro[name] for name in expected} == pytest.approx(expected)
    assert names.names == ("not abnormal", "abnormal")


def test_markdown_becomes_a_page_that_holds_its_pictures_and_escapes_its_text() -> None:
    text = f"{table(['a', 'b'], [['x|y', '<b>1</b>']])}\n\n![p](p.svg)"
    page = to_html(text, "T<", {"p.svg": "<svg/>"})
    assert "<title>T&lt;</title>" in page and "x|y" in page and "&lt;b&gt;1" in page
    assert "data:image/svg+xml;base64," in page
