"""What notebooks and the command line call: run, route, train, resume, compare."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.config.resolve import configure
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.data.saved_stream import named
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training.ready_adapters import configuration
from lab.training.runner import resume, session, watched  # noqa: F401 (resume is public)


def train(config: RunConfig | str, **settings: Any) -> Iterator[events.Event]:
    """Events of a run that leaves no folder behind: `for event in lab.train("l2r", stream="builtin")`."""
    yield from session(_configured(config, (), settings), keep=False).train()


def run(
    recipe: str | RunConfig,
    overrides: list[str] | None = None,
    *,
    runs: str | Path | None = None,
    id: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train and evaluate a recipe, and return the finished run.

    `overrides` are `key=value` texts as on the command line, `settings` fields of the configuration
    (`stream="builtin", backbone="minilm", seed=0`). `stream` also takes what `lab.stream` returns, a file, or "hf:OWNER/NAME",
    which is saved among the runs first. Everything is checked before the run's folder is made; raises LabError.
    """
    if "stream" in settings:
        settings["stream"] = named(settings["stream"], runs)
    prepared = session(_configured(recipe, overrides or (), settings), runs)
    return watched(create_run(prepared.config.to_dict(), runs, id), prepared, progress)


def route(
    experts: Mapping[str, str | Path],
    examples: Any,
    router: str | None = None,
    recipe: str | None = None,
    overrides: list[str] | None = None,
    *,
    runs: str | Path | None = None,
    id: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Route saved adapters, which stay as they are, and return the finished run; see `ready_adapters.configuration`.

    `experts` are adapters by task (folders, RUN/EXPERT, hub ids), `examples` a stream with labelled examples of these tasks, as
    `stream` for `run`.
    """
    config = configuration(experts, named(examples, runs), router, recipe, overrides or (), runs, **settings)
    return run(config, runs=runs, id=id, progress=progress)


def _configured(recipe: str | RunConfig, overrides: Sequence[str], settings: dict[str, Any]) -> RunConfig:
    """The configuration of a recipe with its changes; a complete one stays, and changes to it are a LabError."""
    if isinstance(recipe, str):
        return configure(recipe, overrides, **settings)
    if overrides or settings:
        raise LabError(
            f"this configuration is complete, {', '.join([*overrides, *settings])} would be ignored: "
            "give changes to lab.configure, or name a recipe here"
        )
    return recipe


def compare(*ids: str, runs: str | Path | None = None) -> Any:
    """The runs side by side as a pandas table: metrics, routing, uses and cost; see lab.views.summary.

    A run that cannot be compared is left out with a warning that says why; LabError if none is left.
    """
    from lab.views import comparable, summary

    if not ids:
        raise LabError("name at least one run to compare")
    compared, excluded = comparable([Run.open(id, runs) for id in dict.fromkeys(ids)])
    if not compared:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return summary(compared)
