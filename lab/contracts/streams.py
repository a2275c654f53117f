"""The contract of a stream, see `lab.data.stream`."""

from collections.abc import Sequence

from lab.contracts.checking import Check, documentation_check, need
from lab.core.plugin_errors import wrong_return
from lab.core.registry import Options, streams
from lab.data.stream import task_of


def every_task_is_whole_and_stays_the_same(options: Options) -> None:
    """Names in the order of the alphabet; each task passes `check`, and is the same when it is loaded again."""
    kind = streams.get(options.name)
    stream, again = kind(), kind()
    names = stream.names()
    need(isinstance(names, list), wrong_return(stream, "names", names, "a list of the names of its tasks"))
    need(bool(names), "names() is empty: a stream has at least one task")
    need(names == sorted(set(names)), f"names() gives {names}: each once, in the order of the alphabet")
    need(stream.name == options.name, f"an instance is called {stream.name}: leave the name as it is in the class")
    for order, ordered in stream.orders.items():
        unknown = ", ".join({*ordered} - {*names})
        need(not unknown and len({*ordered}) == len(ordered), f"order {order} names a task twice, or one there is not: {unknown}")
    for name in [] if stream.downloads else names:  # else the network would be needed
        task = task_of(stream, name)
        need(task.name == name, f"load('{name}') gives a task called '{task.name}'")
        digests = {task.digest(), stream.load(name).digest(), again.load(name).digest()}
        need(len(digests) == 1, f"task '{name}' is another when it is loaded again: draw with random.Random of a fixed key")


CHECKS: Sequence[Check] = (documentation_check(streams), every_task_is_whole_and_stays_the_same)
