"""Lesson packs: one YAML file each, with cards that show recorded runs, ask for a prediction, and ask a question.

Tasks, experts and moments are counted from 1 in a lesson, as people count. Further lessons may lie in the folder LAB_LESSONS.
"""

import math
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from lab import views
from lab.config.schema import Section
from lab.core.documents import read_yaml
from lab.core.errors import LabError, unknown
from lab.core.option_errors import explain
from lab.run_folder.run import Run

SHIPPED = Path(__file__).parent
CONTROLS = ("after", "code", "train")  # what a lesson, or the link to it, can hide


class Show(Section):
    """A figure of a recorded run."""

    figure: Literal["accuracy_matrix", "forgetting_curves", "routing_by_task", "average_curves"]
    runs: list[str] = Field(min_length=1, description="ids of recorded runs; one, but for average_curves")
    after: int | None = Field(None, ge=1, description="after which task; null: a slider moves it")
    read: str = Field("", description="how to read the figure")


class Point(Section):
    """A number of a recorded run that can be predicted."""

    label: str
    run: str
    what: str = Field(description="score, share (of an expert on a task), or a metric by its dotted path in a result")
    after: int = Field(1, ge=1)
    task: int = Field(1, ge=1)
    expert: int = Field(1, ge=1)

    @field_validator("what")
    @classmethod
    def _can_be_looked_up(cls, what: str) -> str:
        allowed = ["score", "share", *(measure.path for measure in views.measures() if measure.score)]
        if what not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return what


class Prediction(Section):
    ask: str
    points: list[Point] = Field(min_length=1, max_length=8)
    tell: str = Field(description="what to see in the answer")


class Question(Section):
    ask: str
    options: list[str] = Field(min_length=2)
    right: int = Field(ge=1, description="number of the right option")
    why: str

    @model_validator(mode="after")
    def _there_is_such_an_option(self) -> "Question":
        if self.right > len(self.options):
            raise ValueError(f"right is {self.right}, but there are {len(self.options)} options")
        return self


class Card(Section):
    """One step: text, then a prediction whose answer uncovers the figures, then a question."""

    title: str
    text: str
    predict: Prediction | None = None
    show: list[Show] = []
    question: Question | None = None


class Preset(Section):
    """A run to train afterwards."""

    recipe: str
    set: list[str] = Field([], description="options as key=value")
    label: str = "Train it yourself"


class Lesson(Section):
    title: str
    about: str
    minutes: int = Field(10, ge=1)
    place: int = Field(100, description="where it stands in the list")
    hide: list[Literal["after", "code", "train"]] = []
    preset: Preset | None = None
    cards: list[Card] = Field(min_length=1)


def lesson_files() -> dict[str, Path]:
    """All lesson files by name; those of LAB_LESSONS come before shipped ones of the same name."""
    folders = [SHIPPED, *([Path(os.environ["LAB_LESSONS"])] if os.environ.get("LAB_LESSONS") else [])]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def read_lesson(name: str) -> Lesson:
    """The lesson called `name`; raises LabError with the line or the field that is wrong."""
    files = lesson_files()
    if name not in files:
        raise unknown("lesson", name, files)
    content = read_yaml(files[name], f"lesson {name}")
    if not isinstance(content, dict):
        raise LabError(f"lesson {name} must be a mapping with title, about and cards")
    try:
        return Lesson(**content)
    except ValidationError as error:
        raise LabError(f"lesson {name}: {_where(error)}") from error


def _where(error: ValidationError) -> str:
    """The first mistake: its place and what is wrong there."""
    first: Any = error.errors()[0]
    path = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    return f"{path}: {first['msg'].removeprefix('Value error, ')}" if path else explain(error, Lesson)


def truth(point: Point, runs: dict[str, Run]) -> float:
    """The number that was predicted. Raises LabError if the run is not here or does not have it."""
    run = runs.get(point.run)
    if run is None:
        raise LabError(f"the recorded run '{point.run}' of this lesson is not installed")
    after, task, expert = point.after - 1, point.task - 1, point.expert - 1
    try:
        if point.what == "score":
            value = float(run.matrix[after, task])
        elif point.what == "share":
            value = float(views.routing_by_task(run, after).iloc[task, expert])
        else:
            value = views.metrics_after(run, after)[point.what]
    except IndexError:
        value = None
    if value is None or math.isnan(value):
        raise LabError(f"the recorded run '{point.run}' has no {point.what} for {point.label}")
    return float(value)
