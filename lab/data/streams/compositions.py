"""The stream `compositions`: every pair of six skills on strings, so that some pairs can be held out whose skills others have."""

from lab.data.strings.skills import PAIRS
from lab.data.strings.world import StringStream


class Compositions(StringStream):
    """Fifteen tasks, the pairs of reverse, sort, shift, rotate, swap and duplicate, one done after the other."""

    name = "compositions"
    tasks = PAIRS
