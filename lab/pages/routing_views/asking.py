"""Models that are asked again about all test examples of a run, one setting after the other, behind the page."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

from lab.pages import layout, loaded_models
from lab.run_folder.run import Run

if TYPE_CHECKING:
    from lab.analysis.what_if import Examiner, Tested
    from lab.inference.override import Override

UNWATCHED_S = 10.0  # after which a setting that nobody looks at is left; what it has tested stays
KEPT = 200  # settings whose results are kept


class Left(Exception):
    """Nobody wants to know any more."""


@dataclass
class Asked:
    """How far one setting is: results by task, test examples answered and in all, and why it failed, if so."""

    tested: "dict[int, Tested]" = field(default_factory=dict)
    answered: int = 0
    total: int = 0
    began: float = 0.0  # when the first example was asked about
    looked_at: float = 0.0
    running: bool = False
    finished: bool = False
    problem: str = ""
    note: str = ""  # whether a task was answered here as in the run while nothing was changed

    @property
    def progress(self) -> str:
        """What is being done, and for how long still."""
        if not self.total or not self.answered:
            return "Waiting for the model: loading it and encoding the texts takes some seconds …"
        left = (time.monotonic() - self.began) / self.answered * (self.total - self.answered)
        return f"Asking the model: {self.answered:,} of {self.total:,} test texts, about {left:.0f} s left"


class Asker:
    """Answers settings in the background, the model of one run and moment at a time."""

    def __init__(self) -> None:
        self.pool, self.lock = ThreadPoolExecutor(1, "what-if"), threading.Lock()
        self.asked: dict[tuple, Asked] = {}
        self.model: tuple[tuple, Examiner, str] | None = None

    def known(self, run: Run, after: int, change: "Override") -> Asked | None:
        """What is known of a setting; nothing is begun."""
        return self.asked.get((loaded_models.state_of(run, after), change))

    def ask(self, run: Run, after: int, change: "Override") -> Asked:
        """Begin or go on with a setting; call it again, every few seconds, for as long as somebody wants to know."""
        key = (loaded_models.state_of(run, after), change)
        with self.lock:
            asked = self.asked.setdefault(key, Asked())
            asked.looked_at = time.monotonic()
            if not (asked.running or asked.finished or asked.problem):
                asked.running = True
                self.pool.submit(self._answer, run, after, key, asked)
            for old in [*self.asked][:-KEPT]:
                if not self.asked[old].running:
                    del self.asked[old]
        return asked

    def _answer(self, run: Run, after: int, key: tuple, asked: Asked) -> None:
        from lab.analysis import what_if

        state, change = key
        try:
            routing = run.routing(after)
            if self.model is None or self.model[0] != state:
                self.model = None  # two need twice the memory
                examiner = what_if.Examiner(run, after)
                self.model = (state, examiner, reproduced(run, after, examiner))
            _, examiner, asked.note = self.model
            tasks = [t for t in what_if.tasks_at(run, after) if not what_if.proven(routing, t, change)]
            tasks = tasks or what_if.tasks_at(run, after)
            asked.total, asked.began = sum(map(examiner.size, tasks)), time.monotonic()
            asked.answered = 0
            for t in tasks:
                told = asked.answered
                if t not in asked.tested:
                    asked.tested[t] = examiner.test(t, change, lambda done, told=told: self._told(asked, told + done))
                asked.answered = told + examiner.size(t)
            asked.finished = True
        except Left:
            pass
        except Exception as error:  # of this setting alone; the page tells it
            asked.problem = layout.reason(error)
        finally:
            asked.running = False

    def _told(self, asked: Asked, answered: int) -> None:
        asked.answered = answered
        ends = not threading.main_thread().is_alive()  # the server ends and would wait for this
        if ends or time.monotonic() - asked.looked_at > UNWATCHED_S:
            raise Left


def reproduced(run: Run, after: int, examiner: "Examiner") -> str:
    """Whether the model answers one task as in the run while nothing is changed: on another machine it need not."""
    from lab.analysis import what_if

    t = what_if.tasks_at(run, after)[0]
    here, recorded = examiner.test(t, what_if.Override()).score, float(run.matrix[after, t])
    if here == recorded:
        return f"Without a change it answers {run.tasks[t]} exactly as recorded."
    return (
        f"Without a change it scores {here:.4f} on {run.tasks[t]} here, the run recorded {recorded:.4f}: it was made on another "
        "machine or with other versions, so small differences from the record mean nothing."
    )


@st.cache_resource
def asker() -> Any:
    """The one that all visitors share."""
    return Asker()
