"""The stream `compositions`: every pair of six string skills. Pairs can be held out whose skills occur in other pairs."""

from lab.data.strings.skills import PAIRS
from lab.data.strings.world import StringStream


class Compositions(StringStream):
    """Fifteen tasks on strings: every pair of reverse, sort, shift, rotate, swap and duplicate, one applied after the other."""

    name = "compositions"
    tasks = PAIRS
