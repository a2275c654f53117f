"""An interactive lab for continual learning with language-model adapters. Importing it loads neither torch nor streamlit."""

import importlib
import os
import warnings

# Threads of the numeric library spin while they wait. With its default, half a second of another process's work (a dashboard, a
# second job) makes them up to twenty times slower; a short spin costs nothing on an idle machine. Read when torch is first
# imported; the user's own setting wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Said by the progress bars of a library in notebooks without ipywidgets; the lab draws its own.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"

# public name -> module that defines it; loaded on first use
_PUBLIC = {
    "run": "lab.api",
    "train": "lab.api",
    "resume": "lab.api",
    "compare": "lab.api",
    "decompose": "lab.analysis",
    "configure": "lab.recipe",
    "Run": "lab.runs",
    "LabError": "lab.errors",
    "figures": None,
    "repeats": None,
    "tables": None,
    "versus": None,
    "views": None,
}
__all__ = [*_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lab' has no attribute '{name}'; it offers {', '.join(sorted(_PUBLIC))}")
    module = _PUBLIC[name]
    return importlib.import_module(f"lab.{name}") if module is None else getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
