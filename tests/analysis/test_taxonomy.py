"""The map of recipes: every one has a place, and those the literature is clear about have the right one."""

from pathlib import Path

import pytest

from lab.analysis import taxonomy
from lab.config.resolve import configure, recipe_names
from lab.core import registry

AXES = {
    "choice": {"fixed", "learned", "computed"},
    "level": {"layer", "model"},
    "granularity": {"all", "task", "example", "token"},
    "hardness": {"hard", "soft"},
}


@pytest.mark.parametrize("name", registry.routers.names())
def test_every_router_says_where_it_stands(name):
    router = registry.routers.get(name)
    axes = router.axes._asdict() | {"choice": router.choice()}
    assert all(axes[axis] in allowed for axis, allowed in AXES.items()), axes


@pytest.mark.parametrize("name", registry.experts.names())
def test_every_kind_of_expert_says_what_it_computes(name):
    assert registry.experts.get(name).computation.partition(",")[0] in ("parameters", "function", "input")


@pytest.mark.parametrize("shown", [taxonomy.markdown, taxonomy.abouts])
def test_readme_shows_the_same_tables(shown):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert shown() in readme, f"README.md: put in what lab.analysis.taxonomy.{shown.__name__}() returns"


def test_every_recipe_has_a_place():
    rows = taxonomy.table()
    assert [row["recipe"] for row in rows] == recipe_names()
    assert all(all(row.values()) for row in rows)


def test_places():
    """As Pfeiffer et al. and the papers themselves have them."""
    rows = {row["recipe"]: row for row in taxonomy.table()}
    assert rows["l2r"]["routing"] == "learned, per example and layer, soft" and rows["l2r"]["aggregation"] == "outputs"
    assert rows["l2r-merge"] == rows["l2r"] | {"recipe": "l2r-merge", "aggregation": "parameters"}
    assert rows["l2r"]["training"] == "each apart, then on the memory"
    assert rows["l2r"]["uses"] == "stored examples (100 per task)"
    assert rows["oracle"]["routing"] == "fixed, per task, hard"
    assert rows["oracle"]["uses"] == "task identity, stored examples (100 per task)"
    assert rows["sequential"]["routing"] == "none, one module" and rows["sequential"]["uses"] == "nothing"
    assert rows["olora"]["training"] == "each on top of the earlier ones, with orthogonal"
    assert rows["replay-reservoir"]["uses"] == "stored examples (500 in all)"
    assert rows["poly"]["routing"] == "learned, per task and layer, soft" and rows["poly"]["aggregation"] == "parameters"
    heads = "learned, per task and layer and one of 8 routing heads, soft"
    assert rows["mhr"] == rows["poly"] | {"recipe": "mhr", "routing": heads}
    assert rows["mhr-z"]["training"] == "all tasks jointly, then few shots of a new one, routing alone"
    assert rows["poly-mu"]["training"] == "all tasks jointly, then few shots of a new one, from the average of all"
    assert (rows["poly"]["uses"], rows["poly"]["kept per task"]) == ("task identity", "classifier rows, router rows")
    assert rows["arrow"]["routing"] == "computed, per token and layer, hard" and rows["arrow"]["aggregation"] == "outputs"
    assert rows["phatgoose"]["routing"] == "learned, per token and layer, hard"
    assert rows["epi"]["routing"] == "computed, per example, hard" and rows["mocl"]["routing"] == "computed, per example, soft"
    assert rows["dam"]["aggregation"] == "parameters"
    assert rows["sapt"]["routing"] == "learned, per example, soft" and rows["sapt"]["aggregation"] == "outputs"
    assert rows["sapt"]["training"] == "each on top of the earlier ones, with reflection, then on the memory"
    assert rows["moduleformer"]["routing"] == "learned, per token and layer, hard" and rows["moduleformer"]["uses"] == "nothing"
    config = configure("l2r", ["router.heads=4", "memory.per_task=0", "memory.per_class=3", "experts=bottleneck"])
    place = taxonomy.place(config)
    assert place["routing"] == "learned, per example and layer and one of 4 routing heads, soft"
    assert (place["uses"], place["computation"]) == ("stored examples (3 per class)", "function, layers put in")
