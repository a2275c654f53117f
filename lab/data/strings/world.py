"""What the streams on strings share: tasks are known sequences of skills, and the task's name seeds its examples."""

import random
from collections.abc import Mapping
from itertools import islice
from typing import ClassVar

from lab.core.errors import unknown
from lab.data.stream import SPLITS, Example, Stream, Task
from lab.data.strings.skills import apply, draw, prompt

SIZES = {"train": 2000, "validation": 100, "test": 200}


class StringStream(Stream):
    """A stream whose answers are free text. The prompt names its task by a letter that says nothing about the skills."""

    tasks: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]]  # by name: the letter, and the skills in their order
    fit = {
        "backbone": {"name": "strings"},
        "experts": {"skip": 0.0},  # the lower blocks decide which letter is read where
        "train": {"lr": 0.01},  # of 0.002, 0.01 and 0.02 the one with the best validation score on three tasks
    }

    def names(self) -> list[str]:
        return sorted(self.tasks)

    def load(self, name: str) -> Task:
        if name not in self.tasks:
            raise unknown("task", name, self.names())
        tag, skills = self.tasks[name]
        chance, texts = random.Random(name), dict[str, None]()  # in the order in which they are drawn
        while len(texts) < sum(SIZES.values()):
            texts[draw(chance)] = None
        examples = (Example(prompt(tag, text), 0, targets=(apply(skills, text),)) for text in texts)
        train, validation, test = (list(islice(examples, SIZES[split])) for split in SPLITS)
        return Task(name, (), train, validation, test, " then ".join(skills))
