"""Where the project lies: it runs from its root, and is not installed."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
