"""The contract of a method, see `lab.methods.base`: in the first recipe that takes it, on two tasks."""

import math
from collections.abc import Sequence

import torch

from lab.contracts.checking import Check, documentation_check, need
from lab.contracts.tiny_run import host, tasks
from lab.core.registry import Options, methods
from lab.methods.base import Method
from lab.run_folder import events


def its_terms_are_finite_and_its_state_comes_back(options: Options) -> None:
    """Terms by names of its own, at every step; what `state` gives, a fresh method takes, to the same terms."""
    session = host("method", options, tasks())
    kind = methods.get(options.name)
    for event in session.train():
        if isinstance(event, events.Step) and event.phase == "train":
            for name, term in event.terms.items():
                need(math.isfinite(float(term)), f"its term {name} is {float(term)} at step {event.step}")
            need("task" in event.terms, "the loss of the task is missing: terms() adds to it and does not replace it")
    need(all(score is not None for score in session.scores.matrix[-1]), "after the last task a score is missing")
    (method,) = session.methods
    state = {name: tensor.clone() for name, tensor in method.state().items()}
    for name, tensor in state.items():
        need(isinstance(tensor, torch.Tensor), f"state() gives {name} as {type(tensor).__name__}: give tensors")
    fresh = kind(method.options, session.learner, session.memory)
    fresh.load_state(state)
    after = fresh.state()
    equal = state.keys() == after.keys() and all(torch.equal(state[name], after[name]) for name in state)
    need(equal, "load_state(state()) does not bring its state back")
    if kind.terms is not Method.terms and kind.begin_task is Method.begin_task:
        batch = session.learner.backbone.collate(session.rows[0, "train"][:2])
        with torch.no_grad():
            out = session.learner(batch)
            names = {*method.terms(batch, out)}
        need("task" not in names, "a term is called task, as the loss of the task is: give it a name of its own")


CHECKS: Sequence[Check] = (documentation_check(methods), its_terms_are_finite_and_its_state_comes_back)
