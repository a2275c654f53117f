"""The stream `strings`: what a small decoder can be taught to do with strings; which skills a task is made of is known."""

import random
from itertools import islice

from lab.errors import unknown
from lab.stream import SPLITS, Example, Stream, Task
from lab.strings.skills import TASKS, apply, draw, prompt

SIZES = {"train": 2000, "validation": 100, "test": 200}


class Strings(Stream):
    """Six tasks on strings of letters, each a known composition of skills: rotate, swap, duplicate, reverse then shift, ...

    Answers are free text. The prompt names its task by a letter that says nothing about the skills.
    """

    name = "strings"
    fit = {
        "backbone": {"name": "strings"},
        "experts": {"skip": 0.0},  # which letter is read where is decided in the lower blocks
        "train": {"lr": 0.01},  # of 0.002, 0.01 and 0.02 the one that learned most of three tasks
    }

    def names(self) -> list[str]:
        return sorted(TASKS)

    def load(self, name: str) -> Task:
        if name not in TASKS:
            raise unknown("task", name, self.names())
        tag, skills = TASKS[name]
        chance, texts = random.Random(name), dict[str, None]()  # in the order in which they are drawn
        while len(texts) < sum(SIZES.values()):
            texts[draw(chance)] = None
        drawn = (Example(prompt(tag, text), 0, targets=(apply(skills, text),)) for text in texts)
        splits = {split: list(islice(drawn, SIZES[split])) for split in SPLITS}
        return Task(name, (), about=" then ".join(skills), **splits)
