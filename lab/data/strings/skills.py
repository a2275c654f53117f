"""Skills on strings of lower-case letters, and prompts that name a task by a capital letter.

A task is a sequence of skills, applied one after the other. The prompt `Q:hello>` asks for the result of task Q on `hello`. The
tag Q does not say which skills the task has, so they must be learned from examples.
"""

import random
import string
from collections.abc import Callable, Sequence

import numpy as np

LETTERS = string.ascii_lowercase
LENGTHS = (4, 8)  # shortest and longest string of a prompt


def swap(text: str) -> str:
    """Swaps neighbours: `abcde` -> `badce`."""
    pairs = (text[i : i + 2][::-1] for i in range(0, len(text), 2))
    return "".join(pairs)


def shift(text: str) -> str:
    """Replaces every letter by the next one of the alphabet, z by a."""
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in text)


SKILLS: dict[str, Callable[[str], str]] = {
    "copy": lambda text: text,
    "reverse": lambda text: text[::-1],
    "sort": lambda text: "".join(sorted(text)),
    "shift": shift,
    "rotate": lambda text: text[1:] + text[:1],
    "swap": swap,
    "duplicate": lambda text: "".join(letter * 2 for letter in text),
}
# Tasks of the stream `strings`: tag, and skills in the order in which they are applied.
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rotate": ("A", ("rotate",)),
    "swap": ("B", ("swap",)),
    "duplicate": ("D", ("duplicate",)),
    "descending": ("E", ("sort", "reverse")),
    "reverse-shift": ("F", ("reverse", "shift")),
    "rotate-shift": ("G", ("rotate", "shift")),
}
# Every pair of six skills, ordered so that neither undoes or hides the other.
PAIRS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: TASKS[name] for name in ("descending", "reverse-shift", "rotate-shift")},
    "reverse-rotate": ("I", ("reverse", "rotate")),
    "reverse-swap": ("J", ("reverse", "swap")),
    "reverse-duplicate": ("K", ("reverse", "duplicate")),
    "sort-shift": ("L", ("sort", "shift")),
    "sort-rotate": ("M", ("sort", "rotate")),
    "sort-swap": ("N", ("sort", "swap")),
    "sort-duplicate": ("O", ("sort", "duplicate")),
    "swap-shift": ("P", ("swap", "shift")),
    "duplicate-shift": ("Q", ("duplicate", "shift")),
    "rotate-swap": ("T", ("rotate", "swap")),
    "rotate-duplicate": ("U", ("rotate", "duplicate")),
    "swap-duplicate": ("V", ("swap", "duplicate")),
}
BASIC = {"copy": "C", "reverse": "R", "sort": "S", "shift": "H"}  # what the backbone is pretrained on, and the tag of each


def apply(skills: Sequence[str], text: str) -> str:
    """Applies the skills to a text, one after the other."""
    for skill in skills:
        text = SKILLS[skill](text)
    return text


def prompt(tag: str, text: str) -> str:
    """The prompt that asks a task, named by its tag, for its result on a text."""
    return f"{tag}:{text}>"


def draw(chance: random.Random) -> str:
    """A random string of lower-case letters, its length within LENGTHS."""
    return "".join(chance.choices(LETTERS, k=chance.randint(*LENGTHS)))


def truth(tasks: Sequence[str]) -> np.ndarray:
    """Which skills each of these tasks (of TASKS or PAIRS) has: booleans (tasks, skills), skills in the order of SKILLS."""
    return np.array([[skill in (TASKS | PAIRS)[task][1] for skill in SKILLS] for task in tasks])
