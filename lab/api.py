"""What notebooks and the command line call: run, train, resume, compare."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.config.resolve import configure
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.training.runner import resume, session, watched  # noqa: F401 (resume is public)


def train(config: RunConfig | str, **settings: Any) -> Iterator[events.Event]:
    """Events of a run that leaves no folder behind: `for event in lab.train("l2r", stream="builtin")`."""
    yield from session(_configured(config, (), settings), runs=False).train()


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
    (`stream="builtin", backbone="minilm", seed=0`). Everything is checked before the run's folder is made; raises LabError.
    """
    made = session(_configured(recipe, overrides or (), settings), runs)
    created = Run.create(made.config.to_dict(), runs, id)
    return watched(created, made, progress)


def _configured(recipe: str | RunConfig, overrides: Sequence[str], settings: dict[str, Any]) -> RunConfig:
    """What `run` and `train` are given as a configuration; LabError for changes to one that is complete."""
    if isinstance(recipe, str):
        return configure(recipe, overrides, **settings)
    if overrides or settings:
        raise LabError(
            f"this configuration is complete, {', '.join([*overrides, *settings])} would be ignored: "
            "give changes to lab.configure, or name a recipe here"
        )
    return recipe


def compare(*ids: str, runs: str | Path | None = None) -> Any:
    """Table of runs side by side (pandas): metrics, routing, uses and cost; see lab.views.summary."""
    from lab.views import comparable, summary

    if not ids:
        raise LabError("name at least one run to compare")
    found, excluded = comparable([Run.open(id, runs) for id in dict.fromkeys(ids)])
    if not found:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return summary(found)
