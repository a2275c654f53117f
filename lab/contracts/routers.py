"""The contract of a router, see `lab.routers.base`.

Routers are tried among three adapted layers and three experts, with random parameters, on five rows of up to four tokens. Axes of
weights are B rows, L layers, H routing heads, E experts.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lab.contracts.checking import Check, documentation_check, need, same
from lab.core.errors import LabError
from lab.core.plugin_errors import at_fault, wrong_return
from lab.core.registry import routers
from lab.experts.base import LayerInfo
from lab.routers.base import (
    Decision,
    FromMemory,
    Reads,
    Request,
    Router,
    RouterOptions,
    TaskAware,
    Trained,
    loose_tensors,
    refuse_weights,
)
from lab.run_folder.routing_record import STEPS

ROWS, TOKENS, WIDTH, EXPERTS = 5, 4, 8, 3
LAYERS = [LayerInfo("first", 8, 12), LayerInfo("second", 6, 8), LayerInfo("third", 8, 8)]
TASK = torch.tensor([0, 2, 1, 1, 0])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of this shape, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(options: RouterOptions, heads: int = 1, experts: int = EXPERTS, values: bool = True) -> Router:
    """The router that these options name, with this number of heads, told of experts and tasks; `values`: with random ones."""
    options = options.model_copy(update={"heads": heads})
    router = routers.get(options.name)(options, LAYERS, WIDTH)
    router.grow(experts)
    for task in range(int(TASK.max()) + 1):
        add_task(router, task, noise(task))
    if values:
        randomise(router)
    return router


def add_task(router: Router, task: int, chance: torch.Generator) -> None:
    """A task of free text, for routers that keep something of tasks."""
    if isinstance(router, TaskAware):
        router.add_task(task, 0, chance)


@torch.no_grad()
def randomise(router: Router, seed: int = 1) -> None:
    """Random values in parameters and buffers; those of a buffer that is called `spread...` are above 0."""
    for i, parameter in enumerate(router.parameters()):
        parameter.copy_(numbers(*parameter.shape, seed=100 * seed + i) * 2)
    for name, buffer in router.named_buffers():
        if buffer.is_floating_point():
            shift = numbers(*buffer.shape, seed=seed + 7) * 0.3
            buffer.copy_(shift.exp() if name.startswith("spread") else shift)


def begin(router: Router, seed: int = 11) -> tuple[list[Tensor], Tensor]:
    """Standardise and reset with queries of stored examples per layer and the expert of each one's task; returns these."""
    widths = [WIDTH if Reads.QUERY in router.reads else layer.inputs for layer in LAYERS]
    queries, owners = [numbers(40, width, seed=40 + i) * 3 + 5 for i, width in enumerate(widths)], torch.arange(40) % EXPERTS
    if isinstance(router, FromMemory):
        router.standardise(queries)
        router.reset(noise(seed), queries, owners)
    return queries, owners


def asked(
    router: Router, task: Tensor | None = TASK, chance: torch.Generator | None = None, order: Tensor | None = None
) -> Request:
    """What a router is asked about five rows, in this order."""
    order = torch.arange(ROWS) if order is None else order
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])[order]
    query = numbers(ROWS, WIDTH)[order] if Reads.QUERY in router.reads else None
    embedded = numbers(ROWS, TOKENS, WIDTH)[order] if Reads.EMBEDDED in router.reads else None
    return Request(mask, query, None if task is None else task[order], chance, embedded)


def inputs(order: Tensor | None = None) -> list[Tensor]:
    """What the layers are given (B, T, I)."""
    order = torch.arange(ROWS) if order is None else order
    return [numbers(ROWS, TOKENS, layer.inputs, seed=20 + i)[order] for i, layer in enumerate(LAYERS)]


def weights(router: Router, request: Request, xs: Sequence[Tensor] | None = None) -> Tensor:
    """What the layers are given, (B, L, H, E); of weights per token the means over the tokens that are no padding."""
    decision, xs = router(request), xs or inputs()
    per_layer, mask = [decision.weights_for_layer(i, x) for i, x in enumerate(xs)], request.mask.bool()
    means = [torch.stack([w[row, keep].mean(0) for row, keep in enumerate(mask)]) if w.dim() == 4 else w for w in per_layer]
    used = torch.stack([w.expand(ROWS, -1, -1) for w in means], 1)
    recorded = decision.recorded()
    need(
        recorded is not None and torch.allclose(recorded.expand_as(used), used, atol=1e-6, equal_nan=True),
        "what the decision records is not what it gave the layers",
    )
    return used


# -- checks ----------------------------------------------------------------------------------------------------------------


def weights_have_their_axes_and_are_shares(options: RouterOptions) -> None:
    """(B | 1, L | 1, H, E), finite, not negative; they sum to one, unless experts act or do not."""
    for heads, chance in ((1, False), (1, True), (2, False), (2, True)):
        router = build(options, heads)
        try:
            decision = router(asked(router, chance=noise() if chance else None))
        except (AttributeError, TypeError) as error:
            if "NoneType" not in str(error):
                raise
            raise LabError(
                f"{at_fault(error) or error}: of query, embedded and task only what `reads` declares is there"
            ) from error
        of = f"router '{router.name}'"
        need(isinstance(decision, Decision), wrong_return(router, "forward", decision, "a Decision"))
        if decision.weights is not None:
            axes = {"rows": (1, ROWS), "layers": (1, len(LAYERS)), "routing heads": (heads,), "experts": (EXPERTS,)}
            refuse_weights(of, decision.weights, axes, torch.device("cpu"))
        w = weights(router, asked(router, chance=noise() if chance else None))
        need(w.shape[2:] == (heads, EXPERTS), f"{of} gave {w.shape[2:]} (routing heads, experts), there are {(heads, EXPERTS)}")
        need(bool(w.isfinite().all()), f"{of} gave weights that are not finite: look for divisions by 0 and logarithms of it")
        need(bool((w >= 0).all()), f"{of} gave negative weights: use softmax, sigmoid or clamp(min=0)")
        all_or_none = bool(((w == 0) | (w == 1)).all())
        if not all_or_none and getattr(router.options, "normalise", True):
            sums = w.sum(-1).flatten()
            furthest = float(sums[(sums - 1).abs().argmax()])
            need(
                abs(furthest - 1) < 1e-5,
                f"{of} gave weights whose sum is {furthest:.3f}: divide by their sum, or have an option normalise",
            )


def decisions_repeat_and_draw_from_the_request_alone(options: RouterOptions) -> None:
    """The same question has the same answer; with noise, the same for a generator of the same seed."""
    router = build(options, 2)
    first = weights(router, asked(router))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = torch.get_rng_state()
        again = weights(router, asked(router))
        noisy = [weights(router, asked(router, chance=noise(4))) for _ in range(2)]
        need(torch.equal(again, first), "the same question has two answers: keep nothing of earlier questions")
        need(torch.equal(*noisy), "noise of the same seed gives two answers: draw with generator=request.noise")
        drawn = not torch.equal(state, torch.get_rng_state())
    need(not drawn, "it draws from torch's global generator: draw with generator=request.noise")


def every_step_of_a_decision_is_explained(options: RouterOptions) -> None:
    """By `step_descriptions` or by the words for all; and a router explains nothing that it does not do."""
    router, steps = build(options), set[str]()
    for chance in (None, noise()):
        decision = router(asked(router, chance=chance))
        for layer, x in enumerate(inputs()):
            decision.weights_for_layer(layer, x)
        steps |= {*decision.recorded_steps(), "weights"}
    own = {*router.step_descriptions}
    need(steps <= {*STEPS, *own}, f"step {', '.join(steps - {*STEPS} - own)} is explained nowhere: add it to step_descriptions")
    need(own <= steps, f"step_descriptions explains {', '.join(own - steps)}, which no decision has")


def the_task_is_used_only_where_that_is_declared(options: RouterOptions) -> None:
    """A router that reads the true task says so in `reads`."""
    router = build(options, 2)
    if Reads.TASK in router.reads:
        differ = not torch.equal(weights(router, asked(router)), weights(router, asked(router, TASK.flip(0))))
        need(differ, "reads declares the task, and its decisions do not depend on it: drop Reads.TASK")
        try:
            router(asked(router, None))
        except LabError as error:
            need("task identity" in str(error), f"without a task it says {error}: say that it needs the task identity")
            return
        need(False, "without a task it decides all the same: raise a LabError that it needs the task identity")
    try:
        without = weights(router, asked(router, None))
    except (TypeError, AttributeError) as error:
        raise LabError("it reads request.task, which it does not declare: reads = frozenset({Reads.TASK})") from error
    for other in (TASK, TASK.flip(0)):
        need(torch.equal(without, weights(router, asked(router, other))), "it reads the task: declare Reads.TASK in reads")


def what_is_said_to_be_compared_is_what_decides(options: RouterOptions) -> None:
    """The expert whose key fits a query best has the largest weight; a query is one vector per row."""
    router = build(options)
    decision, w = router(asked(router)), weights(router, asked(router))
    if decision.match is None:
        for i, x in enumerate(inputs()):
            decision.weights_for_layer(i, x)
    if decision.match is None:  # made per token, by the task, or not at all
        return
    query, keys = decision.match.query, decision.match.keys
    need(query.shape[0] == ROWS and query.dim() == 2, f"match.query is {tuple(query.shape)}: one vector per row, (rows, width)")
    if keys is None:
        return
    fits = keys.shape == (len(decision.match.experts), query.shape[1]) and max(decision.match.experts) < EXPERTS
    need(fits, f"match.keys is {tuple(keys.shape)}: (keys, width), and match.experts says whose each is")
    near = -torch.cdist(query, keys) if getattr(options, "distance", "") == "mahalanobis" else query @ keys.T
    best = [decision.match.experts[int(i)] for i in near.argmax(1)]
    largest = torch.allclose(w[range(ROWS), 0, 0, best], w[:, 0, 0].max(-1).values)
    need(largest, "the expert whose key fits best has not the largest weight: leave match.keys None where the rule is another")


def growing_keeps_what_was_learned(options: RouterOptions) -> None:
    """More experts and tasks: old values stay where they were, and parameters can be trained."""
    router = build(options, 2)
    before = {name: p.detach().clone() for name, p in router.named_parameters()}
    router.grow(EXPERTS + 2)
    add_task(router, 1, noise(6))
    experts = weights(router, asked(router)).shape[-1]
    need(experts == EXPERTS + 2, f"after grow({EXPERTS + 2}) it weighs {experts} experts: take their number from self.experts")
    after = dict(router.named_parameters())
    for name, old in before.items():
        kept = name in after and torch.equal(after[name][tuple(slice(size) for size in old.shape)], old)
        need(kept, f"grow loses what {name} had learned: copy the old values to the beginning of the larger parameter")
    need(all(p.requires_grad for p in after.values()), "a parameter that grow makes cannot be trained: use nn.Parameter")


def its_state_is_all_that_it_keeps(options: RouterOptions) -> None:
    """A fresh router with this one's state decides alike."""
    router, other = build(options, 2), build(options, 2, values=False)
    begin(router)
    randomise(router)
    names = loose_tensors(router)
    need(not names, f"it keeps the tensor '{', '.join(names)}' outside of its state: use register_buffer or nn.Parameter")
    try:
        other.load_state_dict(router.state_dict())
    except RuntimeError as error:
        need(False, f"its state does not fit a fresh router ({error}): let grow and add_task give buffers their final shape")
    alike = torch.equal(weights(router, asked(router)), weights(other, asked(other)))
    need(alike, "a fresh router with its state decides otherwise: keep what it decides by in buffers or parameters")


def reset_forgets_what_the_memory_taught(options: RouterOptions) -> None:
    """Of routers trained on the memory: decided by the generator alone; others are left as they are."""
    router, other = build(options, 2), build(options, 2)
    if router.trained is not Trained.ON_MEMORY:
        state = [tensor.clone() for tensor in router.state_dict().values()]
        begin(router, 1)
        need(same(state, [*router.state_dict().values()]), "reset changes a router that is not trained on the memory")
        return
    need(isinstance(router, FromMemory), "it is trained on the memory: derive it from lab.routers.base.FromMemory too")
    randomise(other, seed=9)
    begin(router, 1)
    begin(other, 1)
    alike = same([*router.parameters()], [*other.parameters()])
    need(alike and torch.equal(weights(router, asked(router)), weights(other, asked(other))), "reset keeps earlier values")


def gradients_reach_every_parameter(options: RouterOptions) -> None:
    """Within three steps, by the weights and by its own loss terms."""
    router = build(options, 2)
    begin(router, 1)
    if not list(router.parameters()):
        return
    target = numbers(ROWS, len(LAYERS), 2, EXPERTS, seed=8)
    for _ in range(3):
        request = asked(router, chance=noise(2))
        terms = router(replace(request, noise=noise(2))).losses
        need(all(bool(term.isfinite()) for term in terms.values()), f"a loss term of {', '.join(terms)} is not finite")
        loss = (weights(router, request) * target).sum() + sum(terms.values())
        router.zero_grad()
        need(torch.as_tensor(loss).requires_grad, "no gradient reaches its parameters: do not detach them, nor round weights")
        torch.as_tensor(loss).backward()
        with torch.no_grad():
            for p in router.parameters():
                p -= 0.1 * (0 if p.grad is None else p.grad)
    idle = [name for name, p in router.named_parameters() if p.grad is None or not p.grad.any()]
    need(not idle, f"no gradient reaches {', '.join(idle)}: use it in forward, or make it a buffer")


def new_values_come_from_the_generator(options: RouterOptions) -> None:
    """Once: meeting a task that brings no expert draws nothing."""
    router, other = (build(options, values=False) for _ in range(2))
    for grown in (router, other):
        grown.grow(EXPERTS + 1)
        add_task(grown, 1, noise(6))
    state = {name: tensor.clone() for name, tensor in router.state_dict().items()}
    alike = same([*state.values()], [*other.state_dict().values()])
    need(alike, "add_task draws from elsewhere: draw with the generator that it is given")
    add_task(router, 2, noise(8))
    after = router.state_dict()
    kept = all(name in after and torch.equal(after[name], tensor) for name, tensor in state.items())
    need(kept, "meeting a task that brings no expert changes what is there")


def a_row_is_decided_for_itself(options: RouterOptions) -> None:
    """Rows in another order have their decisions in that order."""
    router, order = build(options, 2), torch.tensor([3, 0, 4, 2, 1])
    straight, mixed = weights(router, asked(router)), weights(router, asked(router, order=order), inputs(order))
    away = (mixed - straight[order]).abs().max() / straight.abs().max()
    need(bool(away < 1e-6), "a row's weights depend on the other rows of its batch")


CHECKS: Sequence[Check] = (
    documentation_check(routers),
    weights_have_their_axes_and_are_shares,
    decisions_repeat_and_draw_from_the_request_alone,
    every_step_of_a_decision_is_explained,
    the_task_is_used_only_where_that_is_declared,
    what_is_said_to_be_compared_is_what_decides,
    growing_keeps_what_was_learned,
    its_state_is_all_that_it_keeps,
    reset_forgets_what_the_memory_taught,
    gradients_reach_every_parameter,
    new_values_come_from_the_generator,
    a_row_is_decided_for_itself,
)
