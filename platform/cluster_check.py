"""Check the files that start a cluster, without an account and without starting anything.

    python -m platform.cluster_check [FILE ...]

By default cluster.yaml, cluster_local.yaml, slurm.sbatch and the code that travels. Ray's launcher has its own checks,
which let a misspelt key of a node pass; AWS's model of `RunInstances` does not.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import jsonschema
from ray._private.runtime_env import packaging
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from platform.cluster import check_code_size
from platform.command_line import BAD_INPUT, OneLineParser, one_line
from platform.project import ROOT

FILES: Final = ("cluster.yaml", "cluster_local.yaml", "slurm.sbatch")
COMMANDS: Final = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
OF_RAY: Final = ("SubnetIds",)  # keys of a node that Ray takes out before it asks AWS
SBATCH_OPTIONS: Final = frozenset(
    {"account", "cpus-per-task", "gpus-per-node", "job-name", "mem", "nodes", "ntasks-per-node", "output", "partition"}
    | {"qos", "signal", "time"}
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check each file, say what was found, and return the exit code."""
    parser = OneLineParser(prog="python -m platform.cluster_check", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=[ROOT / name for name in FILES], metavar="FILE")
    options: argparse.Namespace = parser.parse_args(arguments)
    code = 0
    for path in options.files:
        try:
            print(f"{path.name}: {check_file(path)}")
        except (ValueError, OSError) as error:
            print(f"{path.name}: {one_line(error)}", file=sys.stderr)
            code = BAD_INPUT
    try:
        check_code_size(ROOT, packaging.GCS_STORAGE_MAX_SIZE)
        print("working_dir: small enough to travel")
    except ValueError as error:
        print(f"working_dir: {one_line(error)}", file=sys.stderr)
        code = BAD_INPUT
    return code


def check_file(path: Path) -> str:
    """Check a file of the cluster launcher, or a batch script of Slurm; return what was checked.

    Raises:
        ValueError: it breaks a rule; one line.
        OSError: it can't be read.
    """
    if path.suffix == ".sbatch":
        check_batch_script(path.read_text(encoding="utf-8"))
        return "a batch script whose options and shell are well formed"
    config = read_config(path)
    kind = check_launcher(config)
    return f"a {kind} cluster that Ray's launcher takes"


def read_config(path: Path) -> dict[str, Any]:
    """Read a file of the cluster launcher.

    Raises:
        ValueError: it is no mapping in YAML.
    """
    try:
        config = YAML(typ="safe", pure=True).load(path)
    except YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        raise ValueError("must be a mapping with a provider, as in Ray's cluster launcher")
    return config


def check_launcher(config: Mapping[str, Any]) -> str:
    """Check a cluster with Ray's own rules, then each node against its cloud's model; return the provider.

    Raises:
        ValueError: a rule is broken.
    """
    prepared = prepared_config(config)
    provider = str(config["provider"]["type"])
    if provider == "aws":
        for name, node_type in prepared["available_node_types"].items():
            check_aws_node(name, node_type["node_config"])
    for key in COMMANDS:
        for command in prepared.get(key, ()):
            check_shell(f"{key}: {command}", command)
            check_token(key, command)
    return provider


def prepared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with Ray's defaults, checked against Ray's schema.

    Raises:
        ValueError: Ray refuses it.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            prepared: dict[str, Any] = prepare_config(copy.deepcopy(dict(config)))
            validate_config(prepared)
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        raise ValueError(f"{place}: {error.message}") from None
    except click.ClickException:  # Ray's launcher has said why on the terminal
        raise ValueError(said.getvalue() or "refused by Ray's launcher") from None
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return prepared


def check_aws_node(name: str, node_config: Mapping[str, Any]) -> None:
    """Check a node's configuration against AWS's model of `RunInstances`, names and enumerated values.

    Raises:
        ValueError: a key is unknown, a value of the wrong type or none of those that there are; or botocore is missing.
    """
    try:
        import botocore.session  # an extra: [aws]
        from botocore.validate import ParamValidator
    except ImportError:
        raise ValueError("needs boto3 to be checked: pip install -e '.[aws]'") from None
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    params = {key: value for key, value in node_config.items() if key not in OF_RAY}
    report = ParamValidator().validate({**params, "MinCount": 1, "MaxCount": 1}, shape)
    faults = [report.generate_report()] if report.has_errors() else []
    faults += [] if faults else enum_faults(params, shape, "")
    if faults:
        raise ValueError(f"available_node_types.{name}.node_config: {faults[0]}")


def enum_faults(value: Any, shape: Any, path: str) -> list[str]:
    """Return a line for each value that is none of those that botocore's shape enumerates."""
    if shape.type_name == "structure":
        return [
            fault for key in value for fault in enum_faults(value[key], shape.members[key], f"{path}.{key}".lstrip("."))
        ]
    if shape.type_name == "list":
        return [
            fault for index, each in enumerate(value) for fault in enum_faults(each, shape.member, f"{path}.{index}")
        ]
    if getattr(shape, "enum", None) and value not in shape.enum:
        return [f"{path}: {value!r} is none of AWS's {len(shape.enum)} values, such as {shape.enum[0]}"]
    return []


def check_batch_script(text: str) -> None:
    """Check a batch script of Slurm: its options are known ones, its shell is well formed, its nodes ask for the token.

    Raises:
        ValueError: a rule is broken.
    """
    for option in sbatch_options(text):
        if option not in SBATCH_OPTIONS:
            raise ValueError(f"#SBATCH --{option}: not among {', '.join(sorted(SBATCH_OPTIONS))}")
    check_shell("the script", text)
    check_token("the script", text)


def sbatch_options(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            match = re.fullmatch(r"#SBATCH\s+--([a-z-]+)(?:[= ]\S+)?", line.strip())
            if match is None:
                raise ValueError(f"{line!r}: must be #SBATCH --OPTION=VALUE")
            yield match[1]


def check_shell(place: str, command: str) -> None:
    """Refuse a command that bash can't parse; it is not run."""
    result = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)  # noqa: S607
    if result.returncode:
        raise ValueError(f"{place}: {result.stderr.strip()}")


def check_token(place: str, command: str) -> None:
    """Refuse a `ray start` that does not read cluster.env first: its node would let anyone in."""
    if "ray start" in command and "cluster.env" not in command.split("ray start", maxsplit=1)[0]:
        raise ValueError(f"{place}: `ray start` without cluster.env before it asks no one for a token")


if __name__ == "__main__":
    sys.exit(main())
