"""The built-in stream: six tasks of short English texts written for this project; two pairs of them are near-domain."""

from lab.core.errors import unknown
from lab.data.stream import Example, Stream, Task
from lab.data.streams.builtin import grammar


class Builtin(Stream):
    """Six tasks of short English text written for this project: questions, news, two on product reviews, two on support messages.

    product_review and review_aspect share their vocabulary and differ in purpose, and so do support_intent and support_urgency.
    """

    name = "builtin"

    def names(self) -> list[str]:
        return grammar.names()

    def load(self, name: str) -> Task:
        if name not in self.names():
            raise unknown("task", name, self.names())
        content = grammar.load(name)
        splits = {split: [Example(text, label) for text, label in content[split]] for split in ("train", "validation", "test")}
        return Task(name, tuple(content["labels"]), about=content["about"], **splits)
