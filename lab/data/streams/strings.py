"""The stream `strings`: what a small decoder can be taught to do with strings; which skills a task is made of is known."""

from lab.data.strings.skills import TASKS
from lab.data.strings.world import StringStream


class Strings(StringStream):
    """Six tasks on strings of letters, each a known composition of skills: rotate, swap, duplicate, reverse then shift, ..."""

    name = "strings"
    tasks = TASKS
