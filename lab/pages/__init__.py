"""The dashboard: `main.py` is the entry, one file per page, `shell.py` what they share. Pages only read run folders."""

from lab.pages.server import launch

__all__ = ["launch"]
