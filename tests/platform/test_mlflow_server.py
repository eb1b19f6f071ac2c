"""MLflow's server on a head node asks for a password, and listens to its own machine alone."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from platform.mlflow_server import (
    PASSWORD_VARIABLE,
    USER_VARIABLE,
    auth_config,
    main,
    server_command,
    server_environment,
)
from platform.project import ROOT
from tests.sweeps.workplace import wait_until

PASSWORD = "correct horse battery"


@pytest.mark.parametrize("missing", [USER_VARIABLE, PASSWORD_VARIABLE])
def test_without_user_and_password_no_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setenv(USER_VARIABLE, "ecg")
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.delenv(missing)
    assert main([str(tmp_path / "mlflow")]) == 2
    assert f"{missing} must be set" in capsys.readouterr().err
    assert not (tmp_path / "mlflow").exists()


def test_a_short_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 12 characters") as error:
        server_environment(tmp_path, {USER_VARIABLE: "ecg", PASSWORD_VARIABLE: "hunter2"})
    assert "hunter2" not in str(error.value)


def test_the_password_stands_in_the_environment_alone(tmp_path: Path) -> None:
    environment = server_environment(tmp_path, {USER_VARIABLE: "ecg", PASSWORD_VARIABLE: PASSWORD})
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == PASSWORD
    command = server_command(tmp_path, 5000)
    assert PASSWORD not in " ".join(command) + auth_config(tmp_path)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--app-name") + 1] == "basic-auth"


def test_a_new_account_may_see_nothing(tmp_path: Path) -> None:
    config = configparser.ConfigParser()
    config.read_string(auth_config(tmp_path))
    assert config["mlflow"]["default_permission"] == "NO_PERMISSIONS"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_server_answers_only_who_knows_the_password_and_only_here(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, USER_VARIABLE: "ecg", PASSWORD_VARIABLE: PASSWORD}
    command = [sys.executable, "-m", "platform.mlflow_server", str(tmp_path), "--port", str(port)]
    with (tmp_path / "output.txt").open("wb") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        assert wait_until(lambda: _status(port) is not None, 180, step_s=0.5), (tmp_path / "output.txt").read_text()
        assert _status(port) == 401
        assert _status(port, auth=("ecg", "a wrong password")) == 401
        assert wait_until(lambda: _status(port, auth=("ecg", PASSWORD)) == 200, 90)  # its first answer takes longest
        assert _listening(server.pid) == {"127.0.0.1"}
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its own session
        server.wait(30)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in written


def _status(port: int, auth: tuple[str, str] | None = None) -> int | None:
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
    try:
        return requests.post(url, json={"max_results": 1}, auth=auth, timeout=30).status_code
    except requests.RequestException:
        return None


def _listening(pid: int) -> set[str]:
    process = psutil.Process(pid)
    return {
        connection.laddr.ip
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
