"""The built-in stream: six tasks of short English texts written for this project; two pairs of them are near-domain."""

from lab.core.errors import unknown
from lab.data.stream import SPLITS, Example, Stream, Task
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
        train, validation, test = ([Example(text, label) for text, label in content[split]] for split in SPLITS)
        return Task(name, tuple(content["labels"]), train, validation, test, content["about"])
