"""Who is asked: a run after one of its tasks, with its routing changed or not; and what: a text, or pair of texts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from lab.core.errors import LabError
from lab.pages import code_snippets, loaded_models
from lab.run_folder.prediction import Answer
from lab.run_folder.run import Run

BAR = " | "  # separates the two texts of a pair
LONGEST = 4000  # characters of a text
REMEMBERED = 24  # answers of a visitor that are not computed again


@dataclass(frozen=True)
class Question:
    """A text (and the second text of a pair), the task for models that are given it, and the recorded answer of an example."""

    text: str
    pair: str | None = None
    task: str | None = None
    recorded: Answer | None = None

    @classmethod
    def read(cls, entered: str, pairs: bool) -> "Question":
        """What somebody entered; `pairs`: whether texts come in pairs here."""
        first, bar, second = entered.partition(BAR)
        return cls(first, second) if pairs and bar else cls(entered)

    @property
    def unusable(self) -> str | None:
        """Why it cannot be asked, if so."""
        length = len(self.text) + len(self.pair or "")
        if length > LONGEST:  # not max_chars of the box, which would cut a pasted text silently
            return f"This text has {length:,} characters; at most {LONGEST:,} are allowed. Shorten it."
        return None if (self.text + (self.pair or "")).strip() else "Type a text above, or choose an example."


@dataclass(frozen=True)
class Side:
    """One model to answer: a run after task `after` (0-based), with fields of an Override (`change`).

    `lead` begins the sentence on its answer where it is compared with the original; `other` is the text that it is asked
    instead, if any.
    """

    name: str
    run: Run
    after: int
    change: tuple[tuple[str, Any], ...] = ()
    lead: str = ""
    other: Question | None = None

    def asked(self, question: Question) -> Question:
        """What this model is asked where the original is asked `question`."""
        return question if self.other is None else replace(self.other, task=question.task)

    def tasks(self) -> list[str]:
        """The tasks it had learned by then, in its own order."""
        return self.run.tasks[: self.after + 1]

    def task(self, name: str | None) -> int | None:
        """The index that a task has here, if this model is given the task; LabError where it has not learned the task."""
        if name is None or not takes_task(self.run):
            return None
        if name not in self.tasks():
            raise LabError(
                f"run '{self.run.id}' has not learned task '{name}' at that moment: choose one of {', '.join(self.tasks())}"
            )
        return self.tasks().index(name)

    def options(self, question: Question) -> dict[str, Any]:
        """What the model is told beside the text: the task, the second text of a pair, the right answer of what it writes."""
        recorded = question.recorded
        right = [recorded.label] if self.run.writes and recorded and recorded.label else None
        options = {"task": self.task(question.task), "pair": question.pair, "right": right}
        return {name: value for name, value in options.items() if value is not None}

    def python(self, question: Question) -> str:
        """The expression that computes its answer."""
        question = self.asked(question)
        fields = ", ".join(f"{name}={value!r}" for name, value in self.change)
        arguments = [repr(question.text), *([f"lab.Override({fields})"] if fields else [])]
        arguments += [f"{name}={value!r}" for name, value in self.options(question).items()]
        return f"lab.load({code_snippets.open_expression(self.run)}, {self.after}).answer({', '.join(arguments)})"


def takes_task(run: Run) -> bool:
    """Whether the model of a run may need the task of a text; not known before the run is finished, so True until then."""
    uses = run.info.get("uses")
    return run.config["scenario"] == "task" or uses is None or bool(uses.get("task_id"))


def ask(side: Side, question: Question, writing: Callable[[str], object]) -> Answer:
    """The answer of one model; `writing` is given what it has written so far, token by token.

    Answers are computed once: those of this visitor's last questions are remembered.
    """
    question = side.asked(question)
    options = side.options(question)
    key = repr((loaded_models.state_of(side.run, side.after), question.text, side.change, options))
    answers: dict[str, Answer] = st.session_state.setdefault("pg_answers", {})
    if key not in answers:
        model, lock = loaded_models.loaded(side.run, side.after)
        from lab.inference.override import Override  # after the model: loading takes time, and only the line above shows that

        with lock:
            answer = model.answer(question.text, Override(**dict(side.change)), writing=writing, **options)
        answers[key] = replace(answer, label=question.recorded.label) if question.recorded else answer
        while len(answers) > REMEMBERED:
            del answers[next(iter(answers))]
    return answers[key]
