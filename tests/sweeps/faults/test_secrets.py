"""What is secret in the environment of a sweep stands in none of the files that it leaves."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import psutil
import pytest

from platform.mlflow_server import PASSWORD_VARIABLE, USER_VARIABLE
from tests.sweeps.workplace import Workplace

PLANTED = {
    PASSWORD_VARIABLE: "planted-mlflow-7c1e",
    USER_VARIABLE: "planted-user-55aa",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-90bd",
    "MLFLOW_TRACKING_TOKEN": "planted-token-13f2",
    "HF_TOKEN": "planted-hub-aa31",
}


def files_with(text: bytes, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.timeout(600)
def test_planted_secrets_are_in_no_journal_report_log_or_tracking_run(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    token = (Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip()
    database = place.folder / "mlflow.db"
    tracking = {"uri": f"sqlite:///{database}", "experiment": "secrets"}
    assert place.sweep(budget={"trials": 2, "epochs": 1}, tracking=tracking) == 0
    assert files_with(b"tiny-001", place.folder), "the search itself works"
    output = "".join(capfd.readouterr()).encode()
    for secret in (*PLANTED.values(), token):
        assert files_with(secret.encode(), place.folder) == []
        assert secret.encode() not in output


@pytest.mark.usefixtures("ray_cluster")
def test_what_ray_starts_here_listens_on_the_loopback_alone() -> None:
    beyond = set()
    for process in psutil.Process().children(recursive=True):
        try:
            listening = [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
        addresses = {each.laddr.ip.removeprefix("::ffff:") for each in listening}  # IPv4 within IPv6
        beyond |= {(process.name(), each) for each in addresses if not ipaddress.ip_address(each).is_loopback}
    assert beyond == set()
