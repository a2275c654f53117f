"""What a model is beside its weights: the configuration, the tasks it has learned, and the run it comes from."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lab.config.resolve import validated
from lab.core import names
from lab.core.errors import LabError
from lab.data.stream import Task
from lab.models.backbone import is_recorded
from lab.models.learner import Learner
from lab.models.pretrained import resolve_device
from lab.run_folder.run import Run

LONGEST = 1 << 16  # tokens of an answer


@dataclass(frozen=True)
class Origin:
    """Plain values, which a saved model holds as JSON.

    `after`: the last task learned (0-based); `met`: tasks that have classes and experts by then, `after` + 1 unless tasks blend.
    `backbone`: the digest of the backbone, "" where it is not known. `longest`: tokens of the longest answer, 0 of classes.
    `run`: its id, scores and versions, for the card.
    """

    config: dict[str, Any]
    tasks: list[str]
    labels: list[list[str]]
    after: int
    met: int
    backbone: str = ""
    longest: int = 0
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, after: int) -> "Origin":
        """That of the model of a run after task `after`."""
        result = run.result()
        named = ("run", "recipe", "scenario", "seed", "matrix", "zero_shot", "average_accuracy", "forgetting", "uses")
        facts = {name: result.get(name) for name in named} | {
            "after": after,
            "versions": {"lab": run.environment.get("lab"), **run.environment.get("packages", {})},
        }
        return cls(
            run.config,
            list(run.tasks),
            [list(labels) for labels in run.recorded_scores["labels"]],
            after,
            run.protocol.tasks_met(after, len(run.tasks)),
            run.info.get("fingerprint", {}).get("backbone", ""),
            run.info.get("longest_answer", 0),
            facts,
        )

    @classmethod
    def read(cls, values: Any) -> "Origin":
        """That of a saved model. Raises ValueError, or LabError, for values that no model has."""
        try:
            origin = TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
        for task, labels in zip(origin.tasks, origin.labels, strict=True):
            if problem := names.fault(task):
                raise ValueError(f"the name of task {task[:60]!r} {problem}")
            if len({*labels}) < len(labels) or len(labels) == 1:
                raise ValueError(f"task '{task}' has the labels {labels!r:.60}")
        if len({*origin.tasks}) < len(origin.tasks):
            raise ValueError("a task is named twice")
        if not (
            0 <= origin.after < len(origin.tasks)
            and origin.after < origin.met <= len(origin.tasks)
            and 0 <= origin.longest <= LONGEST
        ):
            raise ValueError(f"after {origin.after}, met {origin.met}, longest {origin.longest} fit no {len(origin.tasks)} tasks")
        return origin

    @property
    def values(self) -> dict[str, Any]:
        return asdict(self)

    def learner(self, device: str | None, backbone: str | None = None) -> Learner:
        """A learner that has met the tasks, with untrained values.

        `device`: where to compute; default: where the run did if this machine has it, else the CPU. `backbone`: where it is, if
        not where the configuration says. Raises LabError where the backbone is not the one that the model was trained with.
        """
        config = validated(self.config)
        computing = {"device": device or _here(config.backbone.device), "name": backbone or config.backbone.name}
        tasks = [Task(name, tuple(labels), (), (), ()) for name, labels in zip(self.tasks, self.labels, strict=True)]
        learner = Learner(config.model_copy(update={"backbone": config.backbone.model_copy(update=computing)}), tasks)
        if self.backbone and not is_recorded(learner.backbone, self.backbone):
            raise LabError(
                f"the backbone {computing['name']} is not the one that run '{self.run.get('run')}' was trained with: "
                f"it has changed since, or is another one (digests {self.backbone[:12]} and {learner.backbone.identity[:12]})"
            )
        for t in range(self.met):
            learner.add_task(t)
        return learner

    def on(self, learner: Learner) -> "Origin":
        """As it is saved with the model that `learner` holds: the backbone is called by its hub id where it has one."""
        backbone, config = learner.backbone, dict(self.config)
        name = backbone.hub_id if backbone.config.name != "minilm" and backbone.hub_id else backbone.config.name
        config["backbone"] = {**config["backbone"], "name": name}
        return replace(self, config=config, backbone=backbone.identity, longest=learner.head.longest)


def _here(device: str) -> str:
    """The device if this machine has it, else the CPU."""
    try:
        return str(resolve_device(device))
    except LabError:
        return "cpu"
