"""Inputs that are nearly right: files with damaged bytes, and mappings with odd values, for tests of readers."""

import copy
import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from lab.core.errors import LabError

FEW, MANY = 15, int(os.environ.get("LAB_FUZZ", "10000"))
SLOW, HANGS = 5.0, 120  # seconds of work, and of waiting
TOKENS = [
    *(
        b"\x00",
        b"\xff",
        b"\n",
        b"\r",
        b"\t",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]" * 9,
        b"[" * 200,
        b":",
        b": ",
        b"- ",
        b",",
        b"---\n",
    ),
    *(b"&a ", b"*a", b"!!python/x ", b"<<: ", b"1e999", b"-1", b"NaN", b"9" * 5000, b"010", b"1:30", b"yes", b"null"),
    *(b"\\ud800", b"\xc3\xa9", b"=1+1", b"../..", b"x" * 300),
]
ODD = [
    *(None, True, 0, -1, 10**30, 1.5, -0.0, 1e308, float("inf"), float("nan"), 2**31),
    *("", "yes", "010", "1:30", "2024-13-45", "x" * 300, "a/../b", "\x00", "é\n", "=1+1", "-o", "~"),
    *([], [None], [[]], [1, "a"], {}, {"name": 1}, {"": ""}, {"a": {"b": []}}),
]


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """TimeoutError within the block after so many seconds; 0: never, as pytest's own clock runs."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"still at work after {seconds} s")

    if not seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzzed(*strategies: Any, fixtures: Sequence[str] = ()) -> Any:
    """A few inputs at each test run, and many with -m fuzz; an input that takes 5 seconds of work, or hangs, fails.

    Work is measured in the time of the processor, so that a busy machine makes no input fail.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=[pytest.mark.fuzz, pytest.mark.timeout(0)])])
        def test(examples: int, request: pytest.FixtureRequest) -> None:
            fixed = {name: request.getfixturevalue(name) for name in fixtures}

            @settings(
                max_examples=examples,
                deadline=None,
                suppress_health_check=[*HealthCheck],
                derandomize=True,
                database=None,
                phases=[Phase.generate],
            )
            @given(st.tuples(*strategies))
            def try_all(drawn: tuple[Any, ...]) -> None:
                began = time.process_time()
                try:
                    with alarm(HANGS if examples == MANY else 0):
                        function(*drawn, **fixed)
                    seconds = time.process_time() - began
                    assert seconds < SLOW, f"{seconds:.1f} s of work"
                    slowest[0] = max(slowest[0], seconds)
                except HypothesisException:
                    raise
                except Exception as error:  # each fault once, so that one run finds them all
                    faults.setdefault(_place(error), f"{traceback.format_exc()}\n{drawn!r:.3000}")

            slowest, faults = [0.0], dict[str, str]()
            try_all()
            print(f"{function.__name__}: {examples} inputs, the slowest took {slowest[0]:.2f} s of work")
            assert not faults, "\n\n".join([*faults.values(), *faults])

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return test

    return decorate


def _place(error: Exception) -> str:
    """Where an error was raised, and its kind; of an error in a library also where it was called."""
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if "/lab/" in frame]
    return f"{type(error).__name__} {own[-1:]} {frames[-1]}"


@st.composite
def damaged(draw: Any, originals: list[bytes]) -> bytes:
    """One of the originals after a few changes of bytes."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.one_of(st.just(start), st.integers(start, min(len(content), start + 40)), st.just(len(content))))
        middle = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6), st.just(content[start:end] * 2)))
        content = content[:start] + middle + content[end:]
    return content


@st.composite
def changed(draw: Any, originals: list[Any]) -> Any:
    """One of the originals, plain values, in which a few were replaced, taken out or added."""
    content = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        places = [*_places(content)]
        inner, name = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if action == "replace":
            inner[name] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif action == "remove":
            del inner[name]
        elif isinstance(inner, dict):
            inner[draw(st.sampled_from(["name", "x", "seed", "lr", "é", ""]))] = copy.deepcopy(draw(st.sampled_from(ODD)))
        if not [*_places(content)]:
            break
    return content


def _places(content: Any) -> Any:
    """Every mapping or list with each of its names or numbers."""
    if isinstance(content, dict | list) and content:
        for name in content if isinstance(content, dict) else range(len(content)):
            yield content, name
            yield from _places(content[name])


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def used_or_refused(use: Callable[[], Any]) -> Any:
    """The answer of `use`; None where it raises LabError of one line, and nothing else is allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return use()
        except LabError as error:
            assert str(error).strip(), "no reason"
    return None
