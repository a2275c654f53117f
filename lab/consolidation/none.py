"""No consolidation: the experts of the bank act as they were trained."""

from lab.consolidation.base import Consolidation
from lab.core.registry import Options


class NoConsolidationOptions(Options):
    name: str = "none"


class NoConsolidation(Consolidation):
    """Every expert acts as its task left it."""

    name = "none"
    Options = NoConsolidationOptions
