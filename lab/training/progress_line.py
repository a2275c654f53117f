"""Progress of a session, or of the cells of a grid: in the terminal on stderr, in a notebook as a widget that rich draws."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lab.run_folder import events
from lab.training.stage import Training
from lab.training.trainer import Session, quiet


@contextmanager
def preparing(shown: bool = True) -> Iterator[Callable[[events.Preparing], None]]:
    """Inside the block, a line with what is done before the first task, its count and ETA; call what it gives with each event."""
    console = Console(stderr=True)
    if not shown or not (console.is_interactive or console.is_jupyter):  # elsewhere there is no line that can change
        yield quiet
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        line = bars.add_task("starting", total=None)

        def tell(event: events.Preparing) -> None:
            bars.update(line, description=event.what, completed=event.done, total=event.total or None)

        yield tell


def follow(happenings: Iterator[events.Event], session: Session) -> Iterator[events.Event]:
    """Pass events on and draw them: one bar for the whole run with its ETA, one for the current phase."""
    names, count = session.task_names, len(session.task_names)
    shares = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TaskProgressColumn(), MofNCompleteColumn()]
    times = [TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()]
    bars = Progress(*shares, *times, console=Console(stderr=True), transient=False)
    with bars:
        overall = bars.add_task("whole run", total=1000, completed=int(1000 * session.progress()))
        phase = bars.add_task("starting", total=None)
        for event in happenings:
            bars.update(overall, completed=int(1000 * getattr(event, "progress", 0)))
            if isinstance(event, events.RunStarted):
                for note in event.notes:
                    bars.console.print(note, highlight=False, markup=False, soft_wrap=True)
            elif isinstance(event, events.Step) and isinstance(session.stage, Training):
                where = f"{names[event.task]} ({event.task + 1}/{count}), epoch {event.epoch + 1}/{event.epochs}"
                title = f"{session.stage.title} {where}"
                bars.update(phase, description=title, completed=event.step, total=event.steps)
            elif isinstance(event, events.Evaluating):
                title = f"evaluating {session.tasks[event.task].name}"
                bars.update(phase, description=title, completed=event.done, total=event.total)
            elif isinstance(event, events.TaskEnded):
                bars.console.print(session.protocol.summary_line(session, event.task), highlight=False, markup=False)
            elif isinstance(event, events.Recovered):
                for what in event.what:
                    bars.console.print(what, highlight=False, markup=False, soft_wrap=True)
            yield event
        bars.refresh()  # in a notebook the last state is not drawn by itself


def follow_cells(steps: Iterator[Any]) -> None:
    """Draw the work on a grid: one bar over all cells with its ETA, one for each cell that runs now."""
    with Console(stderr=True).status("checking all cells"):
        first = next(steps, None)
    if first is None:
        return  # nothing to do is nothing to draw
    shares = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TaskProgressColumn()]
    times = [TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()]
    with Progress(*shares, *times, console=Console(stderr=True), speed_estimate_period=600) as bars:
        overall, running = bars.add_task("cells"), dict[str, TaskID]()
        for step in chain([first], steps):
            done = step.done + sum(step.active.values())
            bars.update(overall, total=step.total, completed=done, description=f"cells {step.done}/{step.total}")
            for id in [id for id in running if id not in step.active]:
                bars.remove_task(running.pop(id))
            for id, share in step.active.items():
                running[id] = running[id] if id in running else bars.add_task(id, total=1.0)
                bars.update(running[id], completed=share)
            for line in step.ended:
                bars.console.print(line, highlight=False, markup=False)
        bars.refresh()
