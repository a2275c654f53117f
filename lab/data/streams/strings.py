"""The stream `strings`: tasks on strings for a small decoder, each a known composition of skills."""

from lab.data.strings.skills import TASKS
from lab.data.strings.world import StringStream


class Strings(StringStream):
    """Six tasks on strings of letters, each a known composition of skills: rotate, swap, duplicate, reverse then shift, ..."""

    name = "strings"
    tasks = TASKS
