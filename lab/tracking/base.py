"""The contract of a tracker, and how a run is followed by one.

A file of this folder is one tool. It is told the configuration, numbers with a step, figures, and the end, and writes them where
the tool keeps them, without a network where the tool can. A tool that fails is said once and left: no run fails by it. Nothing of
this is part of a configuration, so it changes no fingerprint and no address.
"""

import importlib.util
import os
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import lab
from lab.core import registry
from lab.core.dotted import flat
from lab.core.errors import LabError
from lab.core.registry import Plugin
from lab.run_folder import events
from lab.run_folder.run import Run

VARIABLE = "LAB_TRACK"  # the tool where no other one is named; cells of grids and runs in the background read it
EVERY = 1.0  # seconds between two losses
FIGURES = ("accuracy_matrix", "forgetting_curves", "routing_by_task")  # of lab.figures, at the end


class Tracker(Plugin):
    """A tool that shows runs."""

    kind = "tracker"
    package: ClassVar[str]  # what it is imported by

    @abstractmethod
    def start(self, run: Run, options: Mapping[str, Any]) -> str:
        """Begin, or go on with, the run in the tool; `options` by dotted name. Returns where to look, for people."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, all finite; `step`: optimiser steps since the run began, never falling."""

    @abstractmethod
    def figure(self, name: str, figure: Any) -> None:
        """A Plotly figure."""

    @abstractmethod
    def end(self, status: str) -> None:
        """The run is `finished`, `failed`, `stopped` or `interrupted`."""


def tracker(name: str | None) -> Tracker | None:
    """The tracker of a tool, or of the one that `LAB_TRACK` names; None for none.

    Raises LabError for an unknown tool, and for one that is not installed, with the command that installs it.
    """
    name = name or os.environ.get(VARIABLE)
    if not name:
        return None
    kind: type[Tracker] = registry.trackers.get(name)
    if importlib.util.find_spec(kind.package) is None:
        raise LabError(f"track = {name}: {kind.package} is not installed: pip install 'adapter-routing-lab[{name}]'")
    return kind()


def folder(run: Run, name: str) -> Path:
    """Where a tool keeps what it is told of the runs of a folder."""
    return run.dir.parent.resolve() / ".tracking" / name


def tracked(happenings: Iterator[events.Event], run: Run, tool: Tracker) -> Iterator[events.Event]:
    """Pass events on and tell the tool what they mean; figures at the end."""
    telling = _Telling(run, tool)
    telling.safely(telling.start)
    status = "interrupted"
    try:
        for event in happenings:
            telling.safely(telling.tell, event)
            yield event
        status = "finished"
        telling.safely(telling.draw)
    except GeneratorExit:
        raise
    except BaseException:
        status = "failed"
        raise
    finally:
        recorded = run.info.get("status", status)
        telling.safely(tool.end, status if recorded in ("running", "queued") else recorded)


class _Telling:
    """What a tool is told of a run, and what becomes of its failures."""

    def __init__(self, run: Run, tool: Tracker):
        self.run, self.tool, self.failed = run, tool, False
        self.segments: dict[tuple[int, str], int] = {}  # steps of each phase of each task, in order
        self.step, self.last = 0, 0.0

    def safely(self, work: Callable[..., Any], *words: Any) -> None:
        """Do this unless the tool has failed before; a failure is said in the log and on stderr."""
        if self.failed:
            return
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                work(*words)
        except Exception as error:
            self.failed = True
            sentence = f"{self.tool.name} failed and is told no more of this run, which goes on: {type(error).__name__}: {error}"
            print(f"lab: {' '.join(sentence.split())[:500]}", file=sys.stderr)
            with open(self.run.dir / "log.txt", "a", encoding="utf-8") as log:
                log.write(sentence + "\n")

    def start(self) -> None:
        where = self.tool.start(self.run, flat(self.run.config))
        print(f"lab: {self.tool.name} follows the run: {where}", file=sys.stderr)
        for event in self.run.events("Step"):  # of a run that goes on
            self._count(event["task"], event["phase"], event["step"], event["steps"])

    def _count(self, task: int, phase: str, step: int, steps: int) -> None:
        self.segments.setdefault((task, phase), steps)
        before = 0
        for segment, length in self.segments.items():
            if segment == (task, phase):
                break
            before += length
        self.step = max(self.step, before + step)

    def tell(self, event: events.Event) -> None:
        if isinstance(event, events.Step):
            self._count(event.task, event.phase, event.step, event.steps)
            if event.step in (1, event.steps) or time.monotonic() - self.last >= EVERY:
                self.last = time.monotonic()
                terms = {name: float(value) for name, value in event.terms.items()}
                losses = {f"loss/{name}": value for name, value in terms.items()}
                self._log({"loss": sum(terms.values()), "lr": event.lr, "progress": event.progress} | losses)
        elif isinstance(event, events.Evaluated) and event.split == "test" and event.after >= 0:
            self._log({f"score/{self.run.tasks[event.task]}": event.score})
        elif isinstance(event, events.TaskEnded):
            self._log(self._numbers() | self._shares(event.task))
        elif isinstance(event, events.RunEnded):
            self._log(self._numbers() | {f"cost/{name}": value for name, value in event.cost.items()})

    def _log(self, values: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self.tool.log({name: value for name, value in numbers.items() if abs(value) < float("inf")}, self.step)

    def _numbers(self) -> dict[str, Any]:
        """Every metric of the registry that has a value now."""
        return {path: value for path, value in self.run.metrics().items() if path != "why"}

    def _shares(self, task: int) -> dict[str, float]:
        if task not in self.run.recorded():
            return {}
        routing = self.run.routing(task)
        learned = [t for t in range(len(routing.tasks)) if f"{t}/count" in routing.arrays]
        pairs = [(routing.tasks[t], zip(routing.experts, routing.share(t), strict=True)) for t in learned]
        return {f"routing/{name}/{expert}": float(share) for name, shares in pairs for expert, share in shares}

    def draw(self) -> None:
        finished = Run(self.run.dir)
        for name in FIGURES:
            if len(finished.matrix) and (finished.recorded() or not name.startswith("routing")):
                self.tool.figure(name, getattr(lab.figures, name)(finished))
