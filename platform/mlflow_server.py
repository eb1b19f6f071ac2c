"""MLflow's server for a cluster's head node: one machine, one account, everything in one folder.

    python -m platform.mlflow_server FOLDER [--port 5000] [--background]

It listens on the loopback alone (`ray attach -p 5000` brings it home) and asks for the user and the password that
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD have, the same variables that MLflow's client reads.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from platform.command_line import BAD_INPUT, OneLineParser

HOST: Final = "127.0.0.1"
USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
MIN_PASSWORD = 12  # characters; MLflow's own least


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is ended, or leave it running; return the exit code."""
    options = _parse_arguments(arguments)
    folder: Path = options.folder.absolute()
    try:
        environment = server_environment(folder, os.environ)
    except ValueError as error:
        print(f"platform.mlflow_server: {error}", file=sys.stderr)
        return BAD_INPUT
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "auth.ini"
    config.write_text(auth_config(folder), encoding="utf-8")
    command = server_command(folder, options.port)
    if not options.background:
        return subprocess.run(command, env=environment, check=False).returncode
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    print(f"MLflow's server: http://{HOST}:{options.port}, process {process.pid}, log {folder / 'server.log'}")
    return 0


def server_environment(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server's process; the password stands nowhere else.

    Raises:
        ValueError: user or password are not set, or the password is too short.
    """
    missing = [name for name in (USER_VARIABLE, PASSWORD_VARIABLE) if not environment.get(name)]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be set; a server without a password is not started")
    if len(environment[PASSWORD_VARIABLE]) < MIN_PASSWORD:
        raise ValueError(f"{PASSWORD_VARIABLE} must have at least {MIN_PASSWORD} characters")
    return {
        **environment,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": environment[USER_VARIABLE],
        "MLFLOW_AUTH_ADMIN_PASSWORD": environment[PASSWORD_VARIABLE],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def auth_config(folder: Path) -> str:
    """Return MLflow's configuration of its accounts: a new one may see nothing until it is told so."""
    return f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder / 'accounts.db'}\n"


def server_command(folder: Path, port: int) -> list[str]:
    return [
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", HOST, "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m platform.mlflow_server", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="database, accounts, artifacts and log")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--background", action="store_true", help="return at once, and leave the server running")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
