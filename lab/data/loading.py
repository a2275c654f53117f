"""From the name of a stream to its tasks.

A file, an id of the hub, a path; else a saved stream, a folder here or under LAB_DATA, a stream of the registry, in this order.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.config.schema import StreamConfig
from lab.core.errors import LabError, unknown
from lab.core.registry import streams
from lab.data.folder_stream import FolderStream
from lab.data.saved_stream import is_saved, open_saved, saved_names
from lab.data.sources import SourceStream, is_source
from lab.data.stream import Stream, Task, as_text, limited, order, task_of


class JoinedStream(Stream):
    """Several streams as one; published orders of any stream whose tasks are all here come along."""

    def __init__(self, parts: Mapping[str, Stream]):
        """Join streams given by name. Raises LabError if two of them have a task of the same name."""
        self.parts: dict[str, Stream] = {}
        source: dict[str, str] = {}
        for title, part in parts.items():
            for task in part.names():
                if task in self.parts:
                    both = f"'{source[task]}' and '{title}'"
                    raise LabError(f"stream.sources: {both} both have a task '{task}'; rename its folder or drop a source")
                self.parts[task], source[task] = part, title
        self.name = "+".join(parts)
        self.orders = _published(streams.names(), self.parts)
        for part in parts.values():
            self.orders.update(part.orders)

    def names(self) -> list[str]:
        return sorted(self.parts)

    def load(self, name: str) -> Task:
        if name not in self.parts:
            raise unknown("task", name, self.names())
        return self.parts[name].load(name)


class StandIn(FolderStream):
    """A folder under LAB_DATA in place of the shipped stream of its name: its tasks must be among those of the stream."""

    def __init__(self, path: Path):
        """Open the folder. Raises LabError for tasks that the shipped stream has not."""
        super().__init__(path)
        self.shipped: type[Stream] = streams.get(path.name)
        self.aliases: Mapping[str, str] = getattr(self.shipped, "aliases", {})
        self.orders = _published([path.name], self.names())
        shipped = self.shipped().names()
        foreign = [task for task in self.names() if self.aliases.get(task, task) not in shipped]
        if foreign:
            raise LabError(self._refusal(f"it has a task '{foreign[0]}', the stream has {', '.join(shipped)}"))

    def load(self, name: str) -> Task:
        """The task, read from the folder. Raises LabError if its labels are not those of the shipped stream."""
        task = super().load(name)
        benchmark = getattr(self.shipped, "tasks", {}).get(self.aliases.get(name, name))
        labels = benchmark.labels if benchmark else None  # None: they stand in the data on the hub
        if labels is not None and set(labels) != set(task.labels):
            raise LabError(self._refusal(f"task '{name}' has the labels {_some(task.labels)}, in the stream {_some(labels)}"))
        return task

    def _refusal(self, why: str) -> str:
        return f"{self.path} is called like the shipped stream '{self.name}', but {why}: rename the folder"


def _some(labels: Sequence[str], most: int = 6) -> str:
    more = f", ... ({len(labels)} in all)" if len(labels) > most else ""
    return ", ".join(sorted(labels)[:most]) + more


def open_stream(name: str, sources: Sequence[str] = (), runs: str | Path | None = None) -> Stream:
    """The stream called `name`: a path or "hf:OWNER/NAME", else one saved among `runs`, `$LAB_DATA/<name>`, or a registered one.

    `sources`, if any, are joined instead.

    A folder under the name of a benchmark carries the benchmark's orders, as far as its tasks are all there; under LAB_DATA it
    must have the benchmark's tasks and labels. Raises LabError with the nearest name if there is none.
    """
    if sources:
        repeated = sorted({source for source in sources if sources.count(source) > 1})
        if repeated:
            raise LabError(f"stream.sources names '{repeated[0]}' twice")
        opened = {source: open_stream(source, runs=runs) for source in sources}
        return JoinedStream(opened) if len(opened) > 1 else opened[sources[0]]
    if is_source(name):
        return SourceStream(name)
    if is_saved(name, runs):
        return open_saved(name, runs)
    path = Path(name).expanduser()
    if os.sep in name or "/" in name or (name and path.is_dir() and name not in streams.names()):
        return _folder(path)
    shelf = _lab_data()
    if shelf is not None and name and (shelf / name).is_dir():
        return StandIn(shelf / name) if name in streams.names() else _folder(shelf / name)
    if name in streams.names():
        stream: Stream = streams.get(name)()
        return stream
    raise unknown("stream", name, {*streams.names(), *folders(), *saved_names(runs)})


def folders() -> list[str]:
    """Names of the stream folders under LAB_DATA; LabError if that is no folder."""
    shelf = _lab_data()
    return [] if shelf is None else [entry.name for entry in shelf.iterdir() if entry.is_dir() and entry.name[0] != "."]


def load_tasks(
    name: str,
    sources: Sequence[str] = (),
    tasks: Sequence[str] | str | None = None,
    seed: int = 0,
    max_train: int | None = None,
    max_validation: int | None = None,
    max_test: int | None = None,
    labels_as_text: bool = False,
    max_per_label: int | None = None,
    runs: str | Path | None = None,
) -> list[Task]:
    """The tasks of a stream in their order, each checked in full, then sub-sampled, then with labels as text if asked.

    `tasks` is a list of names, the name of a published order of the stream ("mtl5-i"), or None for all, alphabetically.
    Raises LabError for an unknown name, for a task that `check` refuses, and for fewer training examples than labels.
    """
    stream = open_stream(name, sources, runs)
    loaded = [task_of(stream, task) for task in task_order(stream, tasks)]
    limits = {"max_train": max_train, "max_validation": max_validation, "max_test": max_test, "max_per_label": max_per_label}
    return [_used(task, seed, limits, labels_as_text) for task in loaded]


def tasks_of(
    stream: StreamConfig,
    seed: int,
    loaded: dict[tuple[str, ...], Task] | None = None,
    runs: str | Path | None = None,
) -> list[Task]:
    """The tasks of a run at a seed, in its order, as `load_tasks` gives them.

    `loaded` keeps the full tasks for other runs; `runs` is the folder of runs in which saved streams are looked for.
    """
    opened, loaded = open_stream(stream.name, stream.sources, runs), {} if loaded is None else loaded
    names = task_order(opened, stream.tasks)
    for name in names:
        if (stream.name, *stream.sources, name) not in loaded:
            loaded[stream.name, *stream.sources, name] = task_of(opened, name)
    tasks = [loaded[stream.name, *stream.sources, name] for name in names]
    return [_used(task, seed, stream.limits, stream.labels_as_text) for task in tasks]


def _used(task: Task, seed: int, limits: Mapping[str, int | None], labels_as_text: bool) -> Task:
    """The part of a full task that the limits leave, with labels as text if asked."""
    most = limits["max_train"]
    if most is not None and most < len(task.labels):
        raise LabError(
            f"stream.max_train = {most} is less than the {len(task.labels)} labels of task '{task.name}': "
            "give each label at least one example"
        )
    task = limited(task, seed, **limits)
    return as_text(task) if labels_as_text else task


def task_order(stream: Stream, tasks: Sequence[str] | str | None) -> list[str]:
    """Names of the tasks in their order: a list of names, a published order of the stream, or None for all, alphabetically."""
    if isinstance(tasks, str):
        if tasks not in stream.orders:
            raise unknown("order", tasks, stream.orders)
        tasks = stream.orders[tasks]
    return order(stream.names(), tasks)


def _folder(path: Path) -> FolderStream:
    stream = FolderStream(path)
    if stream.name in streams.names():
        stream.orders = _published([stream.name], stream.names())
    return stream


def _lab_data() -> Path | None:
    """The folder of stream folders that LAB_DATA names, if it is set."""
    value = os.environ.get("LAB_DATA")
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise LabError(f"LAB_DATA={value} is not a folder; set it to a folder of stream folders, or unset it")
    return path


def _published(benchmarks: Iterable[str], tasks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Orders of these benchmarks whose tasks are all among `tasks`, in the names that `tasks` use (see `aliases`)."""
    orders: dict[str, tuple[str, ...]] = {}
    names = list(tasks)
    for benchmark in benchmarks:
        try:
            stream = streams.get(benchmark)
        except LabError:
            continue  # a broken plug-in is reported when it is asked for
        aliases: Mapping[str, str] = getattr(stream, "aliases", {})
        own_names = {aliases.get(task, task): task for task in names} | {task: task for task in names}
        for title, published in stream.orders.items():
            if all(task in own_names for task in published):
                orders[title] = tuple(own_names[task] for task in published)
    return orders
