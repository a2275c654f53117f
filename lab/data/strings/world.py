"""What the streams on strings have in common: tasks are known sequences of skills, examples drawn by the task's name."""

import random
from collections.abc import Mapping
from itertools import islice
from typing import ClassVar

from lab.core.errors import unknown
from lab.data.stream import SPLITS, Example, Stream, Task
from lab.data.strings.skills import apply, draw, prompt

SIZES = {"train": 2000, "validation": 100, "test": 200}


class StringStream(Stream):
    """Answers are free text. The prompt names its task by a letter that says nothing about the skills."""

    tasks: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]]  # by name: the letter, and the skills in their order
    fit = {
        "backbone": {"name": "strings"},
        "experts": {"skip": 0.0},  # which letter is read where is decided in the lower blocks
        "train": {"lr": 0.01},  # of 0.002, 0.01 and 0.02 the one that learned most of three tasks
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
        drawn = (Example(prompt(tag, text), 0, targets=(apply(skills, text),)) for text in texts)
        splits = {split: list(islice(drawn, SIZES[split])) for split in SPLITS}
        return Task(name, (), about=" then ".join(skills), **splits)
