"""The scripts as an installed package: `from talklip import LipSync`, and the command `talklip`.

The checkout stays flat, and so do its modules where they are installed: they lie together in talklip/checkout/, a
folder that is on nobody's path until the command, or `LipSync`, puts it first on that of its own process.
"""

import importlib.util
import sys
from pathlib import Path

__all__ = ["InputError", "LipSync"]  # noqa: F822
_INSTALLED, _ITSELF = Path(__file__).parent / "checkout", Path(__file__).parents[1]
HOME = _INSTALLED if _INSTALLED.is_dir() else _ITSELF  # where the scripts are


def find_home():
    """Lets this process import the scripts and what they import."""
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))


def others():
    """{name: its place} of modules of the program around that bear a name of the scripts' own."""
    rooms = {path.parent.name for path in HOME.glob("*/__init__.py")} - {"talklip"}
    found = {}
    for name in sorted({path.stem for path in HOME.glob("*.py")} | rooms):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and HOME not in Path(spec.origin).parents:  # a folder without __init__ has no origin
            found[name] = spec.origin
    return found


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module 'talklip' has no attribute {name!r}")
    if clash := others():
        where = ", ".join(f"{name} ({place})" for name, place in clash.items())
        instead = "run `talklip infer` as a process of its own instead, or start Python elsewhere"
        raise ImportError(
            f"talklip's own modules bear names that this program has modules of already: {where}: {instead}"
        )
    find_home()
    return getattr(importlib.import_module("talklip.library"), name)
