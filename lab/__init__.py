"""An interactive lab for continual learning with language-model adapters. Importing it loads neither torch nor streamlit."""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what is loaded on first use, for editors and type checkers
    from lab import figures as figures
    from lab import views as views
    from lab.analysis.loss_decomposition import decompose as decompose
    from lab.api import compare as compare
    from lab.api import grid as grid
    from lab.api import resume as resume
    from lab.api import route as route
    from lab.api import run as run
    from lab.api import runs as runs
    from lab.api import sweep as sweep
    from lab.api import train as train
    from lab.comparison import replicates as replicates
    from lab.comparison import tables as tables
    from lab.config.registration import register as register
    from lab.config.resolve import configure as configure
    from lab.consolidation.base import Consolidation as Consolidation
    from lab.core.errors import LabError as LabError
    from lab.data.saved_stream import stream as stream
    from lab.data.sources import Source as Source
    from lab.data.stream import Stream as Stream
    from lab.experts.base import Expert as Expert
    from lab.inference.loading import load as load
    from lab.inference.override import Override as Override
    from lab.methods.base import Method as Method
    from lab.metrics.base import Metric as Metric
    from lab.protocols.base import Protocol as Protocol
    from lab.routers.base import Router as Router
    from lab.run_folder.run import Run as Run

# Threads of the numeric library spin while they wait. With its default, half a second of another process's work (a dashboard, a
# second job) makes them up to twenty times slower; a short spin costs nothing on an idle machine. Read when torch is first
# imported; the user's own setting wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.2.0"

# public name -> where it is: a module, or module:attribute; loaded on first use
_PUBLIC = {
    "run": "lab.api:run",
    "train": "lab.api:train",
    "route": "lab.api:route",
    "resume": "lab.api:resume",
    "stream": "lab.data.saved_stream:stream",
    "Source": "lab.data.sources:Source",
    "load": "lab.inference.loading:load",
    "Override": "lab.inference.override:Override",
    "compare": "lab.api:compare",
    "register": "lab.config.registration:register",
    "Router": "lab.routers.base:Router",
    "Method": "lab.methods.base:Method",
    "Expert": "lab.experts.base:Expert",
    "Stream": "lab.data.stream:Stream",
    "Metric": "lab.metrics.base:Metric",
    "Protocol": "lab.protocols.base:Protocol",
    "Consolidation": "lab.consolidation.base:Consolidation",
    "runs": "lab.api:runs",
    "grid": "lab.api:grid",
    "sweep": "lab.api:sweep",
    "decompose": "lab.analysis.loss_decomposition:decompose",
    "configure": "lab.config.resolve:configure",
    "Run": "lab.run_folder.run:Run",
    "LabError": "lab.core.errors:LabError",
    "figures": "lab.figures",
    "replicates": "lab.comparison.replicates",
    "tables": "lab.comparison.tables",
    "views": "lab.views",
}
_FORMER = {"repeats": "lab.comparison.replicates", "versus": "lab.figures.methods"}  # names of 0.1, which work in this version
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        warnings.warn(f"lab.{name} is now {_FORMER[name]}", DeprecationWarning, stacklevel=2)
        return importlib.import_module(_FORMER[name])
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lab' has no attribute '{name}'; it offers {', '.join(sorted(_PUBLIC))}")
    module, _, attribute = _PUBLIC[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
