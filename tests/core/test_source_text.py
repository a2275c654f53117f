"""What is kept of scripts and cells: the class, and what of them it uses, so that it is the same class in another process."""

from pathlib import Path

from lab.core.source_text import definitions, excerpt, source_of

FIRST = """
import math
from collections import OrderedDict as Ordered
LIMIT = 3
TABLE = {}
TABLE["a"] = LIMIT
started = print("never again")
"""
SECOND = """
def scaled(n):
    return math.floor(n) * LIMIT

@staticmethod
def unused(): return started

class Mine:
    rows = Ordered()

    def value(self, n, started=0):
        return scaled(n) + TABLE["a"] + sum(x for x in range(2)) + started
"""


def test_an_excerpt_is_the_class_with_all_it_uses_and_nothing_else():
    made = excerpt("Mine", [definitions(SECOND), definitions(FIRST)])
    names: dict = {}
    exec(made.text, names)
    assert names["Mine"]().value(2.5) == 6 + 3 + 1 and made.missing == ()
    assert "never again" not in made.text and "unused" not in made.text
    assert excerpt("Mine", [definitions(SECOND)]).missing == ("LIMIT", "Ordered", "TABLE", "math")


def test_cells(cells):
    names = cells(FIRST.replace("started", "print"), SECOND)
    first = source_of(names["Mine"])
    assert first is not None and "TABLE" in first.text and first.missing == ()
    names = cells("class Mine:\n    rows = 2\n")
    assert source_of(names["Mine"]) == ("class Mine:\n    rows = 2\n", ())
    assert source_of(type("Nowhere", (), {"__module__": "__main__"})) is None


def test_modules_are_taken_whole():
    assert source_of(InAFile) == (Path(__file__).read_text(encoding="utf-8"), ())
    assert source_of(type("Unknown", (), {"__module__": "no_such_module"})) is None


class InAFile:
    pass
