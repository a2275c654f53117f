"""What a configuration must fulfil before anything is loaded. What its tasks must fulfil: lab.data.task_checks."""

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
    protocol = registry.protocols.get(config.protocol.name)
    protocol.check(config)
    if config.router.name == "oracle" and config.experts.allocation != "per_task":
        raise LabError("router oracle picks the expert of the true task: use experts.allocation=per_task")
    for kind, options in config.chosen:
        if kind is not registry.protocols:  # which came first
            kind.get(options.name).check(config)
    router, expert = registry.routers.get(config.router.name), registry.experts.get(config.experts.name)
    if router.axes_of(config.router).granularity == "token" and expert.computation.startswith("input"):
        raise LabError(f"router {router.name} decides per token, '{expert.name}' experts act per example: use another kind")
    protocol.check_router(config)
    return config
