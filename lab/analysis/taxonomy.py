"""Where every recipe stands among modular systems: what a module computes, how modules are chosen, joined and trained.

The axes are those of Pfeiffer et al. (2023, "Modular Deep Learning"); beside them stands what a recipe uses. Nothing is written
down per recipe: its place follows from its configuration and from what its plug-ins say about themselves.
"""

from lab.config.resolve import configure, recipe_names, recipes
from lab.config.schema import RunConfig
from lab.core import registry
from lab.data.replay_buffer import ALL
from lab.routers.base import Reads, Router


def table() -> list[dict[str, str]]:
    """The place of every shipped recipe, in the order of their names."""
    return [{"recipe": name} | place(configure(name)) for name in recipe_names()]


def markdown() -> str:
    """The table as README shows it."""
    rows = table()
    lines = [[f"`{row['recipe']}`", *list(row.values())[1:]] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(rows[0]), ["---"] * len(rows[0]), *lines]) + "\n"


def abouts() -> str:
    """What every recipe is, in its own words, as README shows it."""
    lines = [f"| `{recipe['name']}` | {recipe['about']} |" for recipe in recipes()]
    return "\n".join(["| recipe | what it is |", "| --- | --- |", *lines]) + "\n"


def place(config: RunConfig) -> dict[str, str]:
    """The axes of one configuration, in words."""
    expert, router = registry.experts.get(config.experts.name), registry.routers.get(config.router.name)
    several = config.experts.allocation != "shared"
    return {
        "computation": expert.computation,
        "routing": routing(router, config) if several else "none, one module",
        "aggregation": aggregation(config) if several else "none, one module",
        "training": registry.protocols.build(config.protocol).training(config),
        "uses": uses(router, config),
        "kept per task": kept(router, config),
    }


def routing(router: type[Router], config: RunConfig) -> str:
    """How modules are chosen, for what, where, and how sharply."""
    axes = router.axes_of(config.router)
    if axes.granularity == "all":
        return f"{router.choice()}, all alike"
    heads = f" and one of {config.router.heads} routing heads" if config.router.heads > 1 else ""
    return f"{router.choice()}, per {axes.granularity}{' and layer' if axes.level == 'layer' else ''}{heads}, {axes.hardness}"


def aggregation(config: RunConfig) -> str:
    """What is joined. Modules that are inputs stand one behind the other where outputs would be mixed."""
    inputs = registry.experts.get(config.experts.name).computation.startswith("input")
    return {"mix": "inputs" if inputs else "outputs", "merge": "parameters"}[config.composition]


def uses(router: type[Router], config: RunConfig) -> str:
    """What a recipe is given beside the training examples of the task at hand."""
    memory = config.memory
    have = {registry.methods.get(name).given(options) for name, options in config.methods.items()}
    stores = config.router_training.steps > 0 or "stored" in have or registry.consolidations.get(config.consolidation.name).trains
    unit = "in all" if memory.total else "per task" if memory.per_task else "per class"
    budget = "all" if memory.per_task >= ALL else f"{memory.total or memory.per_task or memory.per_class} {unit}"
    used = ["task identity"] if config.scenario == "task" or Reads.TASK in router.reads_of(config.router) else []
    used += ([f"stored examples ({budget})"] if stores else []) + (["generated examples"] if "generated" in have else [])
    return ", ".join(used) or "nothing"


def kept(router: type[Router], config: RunConfig) -> str:
    """What grows by the task."""
    learned, own = router.choice() == "learned", config.experts.allocation == "per_task"
    parts = {"module": own, "classifier rows": config.answer == "classifier"}
    parts["router rows"] = learned and (own or router.axes.granularity == "task")
    return ", ".join(part for part, grows in parts.items() if grows) or "nothing"
