"""What a person runs: sweeps, ingestion, reports. Also the standard library's `platform` module.

This folder has the name of a standard module that torch, ray and most other packages import. So the
standard module's own code runs here first, in this namespace: `platform.system()` works as ever, and
`python -m platform.sweep` finds the submodules. A test compares every public name with the original.

Nothing but the standard library may be imported here: with Ray's `working_dir`, every worker process
imports this file.
"""

import sysconfig as _sysconfig
from pathlib import Path as _Path

_standard = _Path(_sysconfig.get_path("stdlib")) / "platform.py"
exec(compile(_standard.read_text(encoding="utf-8"), str(_standard), "exec"))
