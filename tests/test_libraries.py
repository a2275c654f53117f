"""Libraries of independently trained experts: each rule of selection against its formula or an independent reference."""

import numpy as np
import pytest
import tiny
import torch
import toy
from sklearn.covariance import empirical_covariance
from tiny import rel

from lab.config import configure
from lab.errors import LabError
from lab.expert import LayerInfo
from lab.registry import routers
from lab.router import Request, Router, top_softmax

WIDTH = 6
LAYERS = [LayerInfo("first", 8, 12), LayerInfo("second", 6, 8)]
SELECTIONS = ["prototype", "epi", "mocl", "dam"]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recipe_s(recipe: str, *changes: str) -> Router:
    """The router of a recipe."""
    options = configure(recipe, changes).router
    return routers.get(options.name)(options, LAYERS, WIDTH)


def taught(router: Router, tasks: list[tuple[torch.Tensor, torch.Tensor]]) -> Router:
    """A router that has met tasks with these queries (N, D) and labels (N,)."""
    for k, (queries, labels) in enumerate(tasks):
        router.grow(k + 1, int(labels.max()) + 1)
        router.learned([{}] * (k + 1), [queries] * len(LAYERS), labels)
    return router


def chosen(router: Router, queries: torch.Tensor) -> torch.Tensor:
    """Weights (B, E) for queries (B, D)."""
    return router(Request(torch.ones(len(queries), 3, dtype=torch.int64), queries)).weights[:, 0, 0]


def clusters(count: int = 3, classes: int = 2, size: int = 30) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tasks whose classes lie around centres of their own, with very unequal spread of the features."""
    spread = torch.tensor([3.0, 2.0, 1.0, 0.3, 0.1, 0.05])
    found = []
    for task in range(count):
        centres = numbers(classes, WIDTH, seed=task) * 2
        labels = torch.arange(size) % classes
        found.append((centres[labels] + numbers(size, WIDTH, seed=50 + task) * spread, labels))
    return found


# prototypes -------------------------------------------------------------------------------------------------------------------


def test_softmax_over_the_largest():
    s = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    e = np.exp([2.0, 1.0])
    assert torch.allclose(top_softmax(s, 2), torch.tensor([[e[0], 0, e[1], 0]] / e.sum()).float())
    assert torch.equal(top_softmax(s, 1), torch.tensor([[1.0, 0, 0, 0]]))
    for k in (4, 5, 1000):  # more than there are means all
        assert torch.equal(top_softmax(s, k, 0.5), torch.softmax(s / 0.5, -1))


def test_the_nearest_class_mean_by_cosine_picks_its_task():
    """Against plain loops over all classes of all tasks."""
    tasks, queries = clusters(), numbers(20, WIDTH, seed=9) * 2
    w = chosen(taught(recipe_s("prototype"), tasks), queries)
    for row, q in enumerate(queries.numpy()):
        best = [max(float(q @ m / np.linalg.norm(q) / np.linalg.norm(m)) for m in [x[y == c].mean(0).numpy() for c in (0, 1)])
                for x, y in tasks]  # fmt: skip
        assert w[row].tolist() == [float(k == np.argmax(best)) for k in range(3)]
    assert len(w.argmax(-1).unique()) == 3


def test_epi_picks_by_mahalanobis_distance_where_the_euclidean_one_picks_another():
    """Scores are minus the distances of scipy with the mean of scikit-learn's covariances."""
    from scipy.spatial.distance import mahalanobis

    tasks, queries = clusters(), numbers(40, WIDTH, seed=9)
    router = taught(recipe_s("epi"), tasks)
    means = [[x[y == c].numpy().astype(float).mean(0) for c in (0, 1)] for x, y in tasks]
    within = [
        empirical_covariance(x.numpy().astype(float) - np.stack(m)[y.numpy()], assume_centered=True)
        for (x, y), m in zip(tasks, means, strict=True)
    ]
    precision = np.linalg.pinv(np.mean(within, axis=0))
    expected = np.array([[-min(mahalanobis(q, m, precision) ** 2 for m in own) for own in means] for q in queries.numpy()])
    assert np.allclose(router.scores(queries).numpy(), expected, rtol=1e-4)
    picked = chosen(router, queries).argmax(-1).numpy()
    assert (picked == expected.argmax(1)).all()
    euclidean = np.array([[min(np.linalg.norm(q - m) for m in own) for own in means] for q in queries.numpy()]).argmin(1)
    assert (picked != euclidean).sum() >= 5


def test_epi_leaves_out_directions_in_which_nothing_varies():
    """Fewer examples than features: the pseudo-inverse, as numpy's."""
    tasks = [(x[:3], y[:3]) for x, y in clusters(2)]
    router = taught(recipe_s("epi"), tasks)
    w = router.whitening.double()
    assert 0 < torch.linalg.matrix_rank(router.covariance) < WIDTH
    assert rel(w.T @ w, torch.linalg.pinv(router.covariance, rtol=1e-10, hermitian=True)) < 1e-4


def test_a_class_without_examples_is_never_the_nearest():
    tasks = clusters()
    x, y = tasks[1]
    tasks[1] = (x[y == 1], y[y == 1])
    for recipe in ("prototype", "epi"):
        w = chosen(taught(recipe_s(recipe), tasks), numbers(20, WIDTH, seed=9))
        assert w.isfinite().all() and torch.equal(w.sum(-1), torch.ones(20))
        assert w[:, 1].any()


def test_mocl_weighs_by_softmax_of_eight_times_the_cosine():
    """A case by hand: tasks whose unit queries average to (1, 0, ...) and (0, 1, ...); the length of a query does not count."""
    one, two = torch.eye(WIDTH)[:2]
    third = torch.eye(WIDTH)[2]
    tasks = [(torch.stack([one + third, 5 * (one - third)]), torch.tensor([0, 1])), (torch.stack([two, 3 * two]), torch.tensor([0, 1]))]
    w = chosen(taught(recipe_s("mocl"), tasks), torch.stack([7 * (0.6 * one + 0.8 * two)]))
    e = np.exp([8 * 0.6, 8 * 0.8])
    assert np.allclose(w[0].numpy(), e / e.sum(), rtol=1e-5)


def test_the_vector_of_mocl_minimises_its_matching_loss():
    """No vector that gradient descent finds has a smaller mean of 1 - cos(q, v)."""
    (queries, labels), *_ = clusters()
    found = taught(recipe_s("mocl"), [(queries, labels)]).mean[0]
    v = numbers(WIDTH, seed=3).requires_grad_(True)
    optimizer = torch.optim.Adam([v], lr=0.02)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return (1 - torch.nn.functional.cosine_similarity(queries, v.unsqueeze(0))).mean()

    for _ in range(600):
        optimizer.zero_grad()
        loss(v).backward()
        optimizer.step()
    assert loss(found) <= loss(v) + 1e-6
    assert torch.nn.functional.cosine_similarity(found, v, 0) > 0.9999


def test_dam_merges_the_two_experts_with_the_nearest_means():
    tasks, queries = clusters(4), numbers(10, WIDTH, seed=9) * 2
    config, router = configure("dam"), taught(recipe_s("dam"), tasks)
    assert config.composition == "merge"
    cos = np.array([[float(q @ (m := x.mean(0)) / q.norm() / m.norm()) for x, _ in tasks] for q in queries])
    for row, w in enumerate(chosen(router, queries).numpy()):
        best = np.argsort(cos[row])[-2:]
        e = np.exp((cos[row, best] - cos[row, best].max()) / 0.01)
        assert np.allclose(w[best], e / e.sum(), atol=1e-4) and (w > 0).sum() <= 2


@pytest.mark.parametrize("recipe", SELECTIONS)
def test_means_of_earlier_tasks_stay_as_tasks_come(recipe):
    tasks, queries = clusters(), numbers(10, WIDTH, seed=9)
    two, three = taught(recipe_s(recipe), tasks[:2]), taught(recipe_s(recipe), tasks)
    assert torch.equal(three.mean[: len(two.mean)], two.mean)
    assert torch.equal(chosen(taught(recipe_s(recipe), tasks[:1]), queries), torch.ones(10, 1))  # E = 1


# all of them in the loop ------------------------------------------------------------------------------------------------------


def test_the_experts_are_those_of_l2r(tmp_path):
    """The same memory, classifier training and stored experts: in one table only the selection differs."""
    first = toy.trained("l2r", store=tmp_path)
    for recipe in SELECTIONS:
        made = toy.trained(recipe, store=tmp_path)
        assert made.cursor.reused_s > 0 and len([*tmp_path.iterdir()]) == 2
        assert toy.equal(toy.expert(made, "city"), toy.expert(first, "city"))
        for field in ("memory", "memory_training", "train"):
            assert getattr(made.config, field) == getattr(first.config, field)
        assert not made.uses()["task_id"]


def test_the_means_are_those_of_the_training_examples_in_the_frozen_backbone():
    made = toy.trained("prototype")
    for t, rows in ((0, made.rows[0, "train"]), (1, made.rows[1, "train"])):
        queries = torch.cat([made.learner.backbone.embed(made.learner.collate(rows[i : i + 8])) for i in range(0, len(rows), 8)])
        labels = torch.tensor([row.label for row in rows])
        for c in (0, 1):
            assert rel(made.learner.router.mean[2 * t + c], queries[labels == c].mean(0)) < 1e-5


def test_selections_need_experts_of_their_own():
    for recipe in SELECTIONS:
        with pytest.raises(LabError, match=r"^router prototype chooses by what each task's own expert was trained on: use"):
            configure(recipe, ["experts.allocation=shared"])
        with pytest.raises(LabError, match="isolated=true"):
            configure(recipe, ["experts.isolated=false", "train.classes=seen"])
    with pytest.raises(LabError, match=r"^router.top_k = 0"):
        configure("dam", ["router.top_k=0"])
