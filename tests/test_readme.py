"""The README's commands, files and first screen are what the project has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data import READERS
from platform import ingest, sweep

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA_PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python -m platform\.(sweep|ingest) ([^`#\n|]+)", README)


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_every_command_names_options_that_exist(
    module: str, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(arguments.replace("KIND", "ptbxl"))
    kind = words[:1] if module == "ingest" and words[0] in READERS else []
    with pytest.raises(SystemExit):
        {"sweep": sweep, "ingest": ingest}[module].main([*kind, "--help"])
    offered = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in offered


def test_every_linked_file_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_kind_of_data_is_in_the_table() -> None:
    for kind in READERS:
        assert re.search(rf"^\| .*`{kind}`.* \|", README, flags=re.MULTILINE), kind
        assert f"\n| `{kind}` |" in DATA_PAGE, kind


def test_the_first_screen_has_the_lines_that_a_sweep_ends_with() -> None:
    screen = README.split("<!-- first-screen:begin -->")[1].split("<!-- first-screen:end -->")[0]
    for start in (
        "best trial t",
        "test/auroc ",
        "looks at the test fold: 1",
        "ONNX against PyTorch",
        "  report  ",
        "  runs  ",
    ):
        assert re.search(f"^{re.escape(start)}", screen, flags=re.MULTILINE), start
