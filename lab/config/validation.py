"""What a configuration must fulfil before anything is loaded. What its tasks must fulfil: lab.data.task_checks."""

from collections.abc import Sequence

from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError

BUDGETS = ("per_task", "per_class", "total")  # of the memory; one of them counts


def consistent(config: RunConfig) -> RunConfig:
    """Refuse combinations that cannot work, before anything is loaded."""
    if config.scenario not in config.scenarios:
        allowed = " or ".join(config.scenarios) or "none"
        raise LabError(f"recipe {config.recipe} makes no sense in scenario {config.scenario}: use scenario {allowed}")
    budgets = [name for name in BUDGETS if getattr(config.memory, name)]
    if len(budgets) > 1:
        named = " and ".join(f"memory.{name}" for name in budgets)
        raise LabError(f"{named} exclude each other: set all but one of them to 0")
    if config.memory.policy != "reservoir" and not config.memory.total:
        raise LabError("memory.policy says how memory.total is shared: set memory.total above 0 and the other budgets to 0")
    if config.answer == "words" and config.stream.labels_as_text:
        raise LabError("stream.labels_as_text writes labels, answer=words chooses among them: drop one of the two")
    (_transferable if config.transfer else _streamable)(config, budgets)
    if config.router.name == "oracle" and config.experts.allocation != "per_task":
        raise LabError("router oracle picks the expert of the true task: use experts.allocation=per_task")
    methods = (registry.methods, config.methods.values())
    for kind, chosen in (
        (registry.experts, [config.experts]),
        (registry.routers, [config.router]),
        (registry.consolidations, [config.consolidation]),
        methods,
    ):
        for options in chosen:
            kind.get(options.name).check(config)
    router, expert = registry.routers.get(config.router.name), registry.experts.get(config.experts.name)
    if router.axes_of(config.router).granularity == "token" and expert.computation.startswith("input"):
        raise LabError(f"router {router.name} decides per token, '{expert.name}' experts act per example: use another kind")
    if not config.transfer and not isinstance(config.experts.allocation, str) and router.trained != "with experts":
        raise LabError(
            f"experts.allocation = {config.experts.allocation}: router {router.name} does not learn with a pool: "
            "set transfer.shots to train on all tasks at once, or use router=l2p or sparse, experts.allocation=per_task or shared"
        )
    untaught = not config.transfer and not config.router_training.steps and router.trained == "on the memory"
    if untaught and config.experts.allocation not in ("shared", 1):
        raise LabError(
            f"router_training.steps = 0: router {router.name} learns on stored examples alone and would stay as it begins: "
            "use router_training.steps=80, or another router"
        )
    return config


def _streamable(config: RunConfig, budgets: Sequence[str]) -> None:
    """Refuse what training on task after task cannot do; `budgets` are those that the memory has."""
    need = "needs stored examples: set memory.per_task, memory.per_class or memory.total above 0"
    if config.router_training.steps and not budgets:
        raise LabError(f"router_training.steps {need}")
    isolated = config.experts.allocation == "per_task" and config.experts.isolated
    if isolated and config.train.loss_classes == "seen":
        raise LabError(
            "train.loss_classes = seen trains classifier rows of earlier tasks, isolated experts must not: "
            "use train.loss_classes=task or experts.isolated=false"
        )
    if isolated and registry.routers.get(config.router.name).trained == "with experts":
        raise LabError(
            f"router {config.router.name} learns while the experts do, isolated experts are trained without it: "
            "use experts.isolated=false or a pool (experts.allocation=10)"
        )
    for name, options in config.methods.items():
        if registry.methods.get(name).given(options) == "stored" and not budgets:
            raise LabError(f"methods.{name} {need}")
        if isolated:
            raise LabError(
                f"methods.{name} brings earlier tasks into training, isolated experts must not know of them: "
                "use experts.isolated=false or experts.allocation=shared"
            )


def _transferable(config: RunConfig, budgets: Sequence[str]) -> None:
    """Refuse what joint training and few-shot adaptation cannot do; `budgets` are those that the memory has."""
    if config.scenario != "task":
        raise LabError(f"scenario {config.scenario}: transfer is between known tasks: use scenario=task")
    if config.methods or config.router_training.steps or budgets:
        raise LabError(f"recipe {config.recipe} stores or replays examples of a stream, transfer has none: drop transfer or them")
    if config.consolidation.name != "none":
        raise LabError(
            f"consolidation {config.consolidation.name} is of isolated experts, one after the other, transfer trains "
            "all at once: use consolidation=none"
        )

    def follows_experts(name: str) -> bool:
        router = registry.routers.get(name)
        return router.choice() == "computed" or router.trained == "after its expert"

    if follows_experts(config.router.name):
        able = [name for name in registry.routers.names() if not follows_experts(name)]
        raise LabError(
            f"router {config.router.name} is made from isolated experts, one after the other, transfer trains all at once: "
            f"use one of {', '.join(able)}"
        )
    adaptation, several = config.transfer.adaptation, config.experts.allocation not in ("per_task", "shared", 1)
    if adaptation.start == "average" and config.composition != "merge":
        raise LabError("transfer.adaptation.start = average merges parameters: use composition=merge")
    if adaptation.start == "average" and not several:
        raise LabError("transfer.adaptation.start = average is of experts that tasks share: use a pool (experts.allocation=8)")
    if adaptation.tuned == "router" and (not several or adaptation.start == "average"):
        raise LabError("transfer.adaptation.tuned = router needs several experts to choose from: use a pool and start=trained")
