"""The command line. Results on stdout, progress on stderr; exit codes 0 done, 1 the run failed, 2 the request was wrong.

A command is found by being there: a file of this folder that declares a function as one (`options.command`).
"""

import importlib
import pkgutil

import lab.cli
from lab.cli.options import app

for _module in pkgutil.iter_modules(lab.cli.__path__):
    importlib.import_module(f"lab.cli.{_module.name}")

__all__ = ["app"]
