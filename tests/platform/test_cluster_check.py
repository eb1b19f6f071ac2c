"""What `make cluster-check` takes, and what it refuses: no account, nothing started, nothing skipped."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from platform.cluster_check import FILES, check_file, main
from platform.project import ROOT


@pytest.mark.parametrize("name", FILES)
def test_the_shipped_files_pass(name: str) -> None:
    check_file(ROOT / name)


def test_the_command_names_every_file_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in (*FILES, "working_dir"))


@pytest.fixture
def aws() -> dict[str, Any]:
    return copy.deepcopy(YAML(typ="safe", pure=True).load(ROOT / "cluster.yaml"))  # aliases stay shared in memory


def refused(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "cluster.yaml"
    YAML(typ="safe", pure=True).dump(config, path)
    with pytest.raises(ValueError, match=r".") as error:
        check_file(path)
    return str(error.value)


def test_a_misspelt_key_of_a_node_that_ray_would_let_pass_is_refused(tmp_path: Path, aws: dict[str, Any]) -> None:
    node = aws["available_node_types"]["gpu_worker"]["node_config"]
    node["InstanceMarketOption"] = node.pop("InstanceMarketOptions")
    text = refused(tmp_path, aws)
    assert "gpu_worker" in text
    assert "InstanceMarketOption" in text


def test_a_misspelt_key_deep_in_a_node_is_refused(tmp_path: Path, aws: dict[str, Any]) -> None:
    aws["available_node_types"]["head"]["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumSize"] = 1
    assert "VolumSize" in refused(tmp_path, aws)


@pytest.mark.parametrize(
    ("key", "value"),
    [("InstanceType", "c5.5xlarge"), ("InstanceMarketOptions", {"MarketType": "sport"}), ("EbsOptimized", "yes")],
)
def test_a_value_that_aws_does_not_know_is_refused(tmp_path: Path, aws: dict[str, Any], key: str, value: Any) -> None:
    aws["available_node_types"]["cpu_worker"]["node_config"][key] = value
    assert key in refused(tmp_path, aws)


def test_a_key_that_rays_schema_lacks_is_refused(tmp_path: Path, aws: dict[str, Any]) -> None:
    aws["idle_timeout_minute"] = aws.pop("idle_timeout_minutes")
    assert "idle_timeout_minute" in refused(tmp_path, aws)


def test_a_head_that_is_none_of_the_node_types_is_refused(tmp_path: Path, aws: dict[str, Any]) -> None:
    aws["head_node_type"] = "heed"
    assert "head_node_type" in refused(tmp_path, aws)


def test_a_ray_that_asks_no_one_for_a_token_is_refused(tmp_path: Path, aws: dict[str, Any]) -> None:
    aws["worker_start_ray_commands"] = ["ray start --address=$RAY_HEAD_IP:6379"]
    assert "without cluster.env" in refused(tmp_path, aws)


def test_a_command_that_is_no_shell_is_refused(tmp_path: Path, aws: dict[str, Any]) -> None:
    aws["setup_commands"] = ["test -d ~/venv || (python3.11"]
    assert "setup_commands" in refused(tmp_path, aws)


def test_without_the_extra_the_check_fails_and_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ValueError, match=r"needs boto3 to be checked: pip install -e '\.\[aws\]'"):
        check_file(ROOT / "cluster.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("--cpus-per-task", "--cpu-per-task", "cpu-per-task"),
        ("fi\n", "\n", "syntax error"),
        ("./cluster.env", "./other.env", "without cluster.env"),
    ],
)
def test_a_batch_script_with_a_fault_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "slurm.sbatch"
    path.write_text((ROOT / "slurm.sbatch").read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        check_file(path)


def test_the_command_ends_with_2_where_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("max_workers: 2\n", encoding="utf-8")
    assert main([str(path)]) == 2
    assert "cluster.yaml: must be a mapping with a provider" in capsys.readouterr().err
