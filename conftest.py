"""Let `pytest` and `python -m pytest` both import the project from the repository's root."""

import sys
from pathlib import Path

import platform

ROOT = Path(__file__).parent

# pytest's own start imports the standard library's `platform` before the root is on the path; the
# module then lacks the package's `__path__`, and `platform.sweep` could not be found.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
if not hasattr(platform, "__path__"):
    platform.__path__ = [str(ROOT / "platform")]  # type: ignore[attr-defined]
