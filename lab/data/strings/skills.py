"""Skills on strings of lower-case letters, and prompts that name a task by a capital letter.

A task is a sequence of skills, done one after the other. The prompt `Q:hello>` asks for what task Q makes of `hello`; which
skills a tag stands for is not written in it, so it must be learned from examples.
"""

import random
import string
from collections.abc import Callable, Sequence

import numpy as np

LETTERS = string.ascii_lowercase
LENGTHS = (4, 8)  # shortest and longest string of a prompt


def swap(text: str) -> str:
    """Neighbours change places: `abcde` -> `badce`."""
    pairs = (text[i : i + 2][::-1] for i in range(0, len(text), 2))
    return "".join(pairs)


def shift(text: str) -> str:
    """Every letter becomes the next one of the alphabet, z becomes a."""
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
# Tasks of the stream `strings`: their tag and the skills they are made of, in order.
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rotate": ("A", ("rotate",)),
    "swap": ("B", ("swap",)),
    "duplicate": ("D", ("duplicate",)),
    "descending": ("E", ("sort", "reverse")),
    "reverse-shift": ("F", ("reverse", "shift")),
    "rotate-shift": ("G", ("rotate", "shift")),
}
# Every pair of six skills, in an order in which neither undoes or hides the other.
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
    """What the skills make of a text, one after the other."""
    for skill in skills:
        text = SKILLS[skill](text)
    return text


def prompt(tag: str, text: str) -> str:
    """The question that a task with this tag is asked."""
    return f"{tag}:{text}>"


def draw(chance: random.Random) -> str:
    """A random string."""
    return "".join(chance.choices(LETTERS, k=chance.randint(*LENGTHS)))


def truth(tasks: Sequence[str]) -> np.ndarray:
    """Which skills each task of TASKS or PAIRS is made of: (tasks, skills) of booleans, skills in the order of SKILLS."""
    return np.array([[skill in (TASKS | PAIRS)[task][1] for skill in SKILLS] for task in tasks])
