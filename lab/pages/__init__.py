"""The dashboard: `main.py` is the entry, one file per page, and what several pages use. Pages only read run folders."""

from lab.pages.server import launch

__all__ = ["launch"]
