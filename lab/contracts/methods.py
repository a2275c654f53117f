"""The contract of a method, see `lab.methods.base`: in the first recipe that takes it, on two tasks."""

import math
from collections.abc import Sequence

import torch

from lab.contracts.checking import Check, documentation_check, need
from lab.contracts.tiny_run import host, tasks
from lab.core.registry import Options, methods
from lab.methods.base import state_of
from lab.run_folder import events


def its_terms_are_finite_and_its_state_comes_back(options: Options) -> None:
    """Terms by names of its own, at every step; what `state` gives, a fresh method takes, to the same terms."""
    session = host("method", options, tasks())
    kind = methods.get(options.name)
    for event in session.train():
        if isinstance(event, events.Step) and event.phase == "train":
            for name, term in event.terms.items():
                need(math.isfinite(float(term)), f"its term {name} is {float(term)} at step {event.step}")
    need(all(score is not None for score in session.scores.matrix[-1]), "after the last task a score is missing")
    (method,) = session.methods
    state = {name: tensor.clone() for name, tensor in state_of(method).items()}
    fresh = kind(method.options, session.learner, session.memory)
    fresh.load_state(state)
    after = state_of(fresh)
    equal = state.keys() == after.keys() and all(torch.equal(state[name], after[name]) for name in state)
    need(equal, "load_state(state()) does not bring its state back")


CHECKS: Sequence[Check] = (documentation_check(methods), its_terms_are_finite_and_its_state_comes_back)
