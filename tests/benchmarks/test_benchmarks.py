"""The benchmarks run, with counts too small to mean anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import (
    bundled,
    crowd,
    data_throughput,
    disk_formats,
    distillation,
    enecg,
    ingest,
    load,
    memory,
    peft,
    pretrain,
    streaming,
    trial_overhead,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmarks run two trials at a time"),
]


def medians_of(path: Path) -> dict[str, float]:
    return {figure["name"]: figure["median"] for figure in json.loads(path.read_text())["figures"]}


def test_trial_overhead_compares_this_platform_with_four_others(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert trial_overhead.main(["--repeats", "1", "--trials", "3", "--json", str(file)]) == 0
    assert len(medians_of(file)) == 5


def test_load_looks_at_growth_memory_view_and_report(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert load.main(["--trials", "8", "--json", str(file)]) == 0
    assert len(medians_of(file)) == 4


def test_crowd_looks_at_processes_without_torch_and_with_it(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert crowd.main(["--trials", "3", "--check", "--json", str(file)]) == 0
    medians = medians_of(file)
    assert medians["a trial's process"] < medians["a trial's process with torch"]


def test_data_throughput_compares_four_sources_and_counts_copies(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--repeats", "1", "--records", "400", "--epochs", "4", "--epoch-s", "1", "--json", str(file)]
    assert data_throughput.main(arguments) == 0
    medians = medians_of(file)
    assert sum(medians[name] > 0 for name, _ in data_throughput.NAMES.values()) == 4
    assert "copies of the data, two trials" in medians


def test_ingest_compares_two_cores_with_a_loop_and_looks_at_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert ingest.main(["--repeats", "1", "--records", "400", "--memory-records", "400", "--json", str(file)]) == 0
    medians = medians_of(file)
    assert sum(each.name in medians for each in ingest.CONTENDERS) == 4
    assert medians["peak memory, 400 records"] > 0


def test_streaming_compares_the_loaders_and_looks_at_the_order(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--repeats", "1", "--shard-records", "100", "--epoch-records", "10", "--json", str(file)]
    assert streaming.main(arguments) == 0
    medians = medians_of(file)
    assert medians["streamed, page cache warm"] > 0
    assert medians["most of a batch from one shard"] <= streaming.MOST_OF_A_BATCH


def test_memory_of_real_steps_is_that_of_fake_ones(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert memory.main(["--size", "nano", "--repeats", "1", "--json", str(file)]) == 0
    medians = medians_of(file)
    assert all(f"{name}, batch {memory.BATCH}" in medians for name in memory.WAYS)
    assert medians["real / fake peak, batch 8, lowest"] == medians["real / fake peak, batch 8, highest"] == 1


def test_peft_compares_tunings_with_and_without_kept_features(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert peft.main(["--repeats", "1", "--records", "32", "--size", "tiny", "--json", str(file)]) == 0
    medians = medians_of(file)
    assert sum(f"{each.name}, a step" in medians for each in peft.CONTENDERS) == 9
    assert medians["linear probe's epoch: anew / kept"] > 1


def test_disk_formats_give_back_what_was_written_in_each(tmp_path: Path, recordings: Path) -> None:
    file = tmp_path / "result.json"
    assert disk_formats.main([str(recordings / "ptbxl"), "--repeats", "1", "--json", str(file)]) == 0
    assert len(medians_of(file)) == 2 * len(disk_formats.FORMATS) + 1


def test_distillation_compares_a_students_latency_with_its_teachers(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--repeats", "2", "--teacher", "tinylight", "--student", "nano", "--json", str(file)]
    assert distillation.main(arguments) == 0
    medians = medians_of(file)
    assert medians["teacher / student, latency"] > 0
    assert medians["tinylight.onnx, size"] > medians["nano.onnx, size"]


def test_pretrain_compares_features_with_loops_and_training_with_transformers(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--repeats", "1", "--records", "200", "--loop-records", "5", "--json", str(file)]
    assert pretrain.main(arguments) == 0
    assert all(median > 0 for median in medians_of(file).values())
    assert len(medians_of(file)) == 7


def test_bundled_compares_each_backbone_with_random_weights_and_each_way_with_a_probe(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--records", "120", "--epochs", "1", "--seeds", "2", "--json", str(file)]
    assert bundled.main(arguments) == 0
    medians = medians_of(file)
    for backbone in bundled.BACKBONES:
        assert 0 < medians[f"{backbone}, linear_probe, bundled"] <= 1
        assert f"{backbone}, lora, bundled - random" in medians
        assert f"{backbone}, bundled, lora - linear_probe" in medians


def test_bundled_compares_hubert_ecgs_own_fine_tuning_too(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    at_its_rate = '{"preprocess": [{"resample": {"fs_hz": 500}}, {"minmax": {}}]}'
    arguments = ["--records", "120", "--epochs", "1", "--seeds", "2", "--backbones", "hubert", "--data", at_its_rate]
    assert bundled.main([*arguments, "--tunings", "linear_probe", "hubert_ecg", "--json", str(file)]) == 0
    assert "hubert, hubert_ecg, bundled - random" in medians_of(file)


def test_bundled_refuses_hubert_ecgs_own_fine_tuning_of_other_backbones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bundled.main(["--backbones", "hubert", "ecg_fm", "--tunings", "hubert_ecg"])
    assert "--tunings hubert_ecg needs --backbones hubert, got hubert ecg_fm" in capsys.readouterr().err


def test_bundled_refuses_records_above_the_rate_of_a_backbones_pretraining() -> None:
    above = '{"preprocess": [{"resample": {"fs_hz": 500}}]}'
    with pytest.raises(ValueError, match="pretraining, 250 Hz, but these have 500 Hz; resample them"):
        bundled.main(["--records", "60", "--backbones", "ecg_fm", "--data", above])


def test_enecg_measures_a_trial_with_and_without_kept_features_and_the_pass(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert enecg.main(["--records", "64", "--repeats", "1", "--json", str(file)]) == 0
    medians = medians_of(file)
    assert medians["trial: anew / kept"] > 1
    assert medians["expert pass, all"] > 0 and medians["expert pass, peak of tensors"] > 0
