"""Methods and the pieces they are made of, against closed forms, other people's code and figures worked by hand."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from support import toy
from torch import nn

from lab.config.resolve import configure, recipe_names
from lab.core.registry import Options
from lab.data.batching import UNLABELLED
from lab.methods.agem import project
from lab.methods.base import Method
from lab.methods.derpp import logit_distance
from lab.methods.ewc import fisher_diagonal, quadratic_penalty
from lab.methods.lwf import distillation
from lab.models.learner import Output

SCENARIOS = ["class", "domain", "task"]
METHODS = toy.methods()


def after(made, task: int, kind: str = "Learned"):
    """The session as it stands when `task` is learned."""
    for event in made.train():
        if type(event).__name__ == kind and event.task == task:
            return made
    raise AssertionError


def begun(made, task: int, step: int = 1):
    """The session after some steps on `task`."""
    for event in made.train():
        if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (task, "train", step):
            return made
    raise AssertionError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Fisher information and the penalty -------------------------------------------------------------------------------------------


def logistic(rows: int):
    """Weights, inputs (N, D) and true labels of a logistic model, and the log-likelihoods of given labels."""
    weight, x = nn.Parameter(torch.tensor([0.7, -1.2, 0.3])), draw(rows, 3, seed=1)
    labels = (draw(rows, seed=2) > 0).float()
    return weight, x, labels, lambda y: (-nn.functional.softplus(-(2 * b - 1) * (a @ weight)) for a, b in zip(x, y, strict=True))


def test_fisher_of_a_logistic_model_with_true_labels():
    """Empirical: mean of (y - p)^2 x^2."""
    weight, x, y, log_likelihoods = logistic(40)
    found = fisher_diagonal(log_likelihoods(y), {"w": weight})["w"]
    p = torch.sigmoid(x @ weight.detach())
    torch.testing.assert_close(found, ((y - p).square()[:, None] * x.square()).mean(0))


def test_fisher_of_a_logistic_model_with_sampled_labels():
    """As defined: mean of p (1 - p) x^2, within four standard errors of the draws."""
    weight, x, _, log_likelihoods = logistic(2000)
    p = torch.sigmoid(x @ weight.detach())
    y = torch.bernoulli(p, generator=torch.Generator().manual_seed(3))
    found = fisher_diagonal(log_likelihoods(y), {"w": weight})["w"]
    spread = (p * (1 - p) * (1 - 2 * p).square())[:, None] * x.square().square()  # variance of (y - p)^2 x^2
    assert ((found - ((p * (1 - p))[:, None] * x.square()).mean(0)).abs() < 4 * spread.mean(0).sqrt() / 2000**0.5).all()


def test_a_parameter_that_does_not_act_has_no_fisher_information():
    idle, weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.tensor(2.0))
    found = fisher_diagonal((weight * i for i in (1, 3)), {"idle": idle, "w": weight})
    assert found["idle"].tolist() == [0, 0] and found["w"].item() == (1 + 9) / 2


def test_quadratic_penalty_by_hand():
    now = {
        "a": nn.Parameter(torch.tensor([1.0, 2.0])),
        "b": nn.Parameter(torch.tensor(3.0)),
        "new": nn.Parameter(torch.tensor(9.0)),
    }
    anchor, importance = (
        {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor(3.5)},
        {"a": torch.tensor([2.0, 0.5]), "b": torch.tensor(8.0)},
    )
    penalty = quadratic_penalty(now, anchor, importance)
    assert penalty.item() == 0.5 * (2 * 1 + 0.5 * 4 + 8 * 0.25)
    penalty.backward()
    assert now["a"].grad.tolist() == [2.0, -1.0] and now["b"].grad.item() == -4.0 and now["new"].grad is None


@pytest.mark.parametrize("labels", ["given", "sampled"])
@pytest.mark.parametrize("classes", ["seen", "task"])
def test_ewc_estimates_the_fisher_information_of_the_classifier(labels, classes):
    """For the bias of class c it is the mean of ([y = c] - p_c)^2 with true labels, of p_c (1 - p_c) as defined."""
    made = after(toy.session("sequential", f"methods.ewc.labels={labels}", f"train.loss_classes={classes}", "train.lr=0.005"), 1)
    (method,), learner, rows = made.methods, made.learner, made.rows[1, "train"]
    own = slice(2, 4) if classes == "task" else slice(0, 4)
    p = learner.predict(rows)[:, own].softmax(-1).double()  # (N, C)
    fisher = method.past[1]["fisher"]
    found = torch.cat([fisher[name] for name in sorted(fisher) if name.endswith("classifier.bias")]).double()
    assert len(found) == p.shape[1] and set(fisher) == set(learner.trainable_parameters())
    if labels == "given":
        y = nn.functional.one_hot(torch.tensor([row.label + 2 - own.start for row in rows]), p.shape[1])
        torch.testing.assert_close(found, (y - p).square().mean(0), rtol=1e-3, atol=1e-6)
    else:
        spread = (p * (1 - p) * (1 - 2 * p).square()).mean(0).sqrt() / len(rows) ** 0.5
        assert ((found - (p * (1 - p)).mean(0)).abs() < 4 * spread + 1e-6).all()
        assert (p * (1 - p)).mean() > 0.01, "or the test says little"


def test_ewc_online_is_the_decayed_sum_around_the_last_values():
    one, two = (
        toy.session("sequential", f"methods.ewc={{form: {form}, decay: 0.25, strength: 0}}") for form in ("per_task", "online")
    )
    one, two = after(one, 1), after(two, 1)
    (first, second), (online,) = one.methods[0].past, two.methods[0].past
    for name in second["fisher"]:
        expected = second["fisher"][name] + 0.25 * first["fisher"].get(name, torch.zeros(()))
        assert torch.equal(online["fisher"][name], expected) and torch.equal(online["anchor"][name], second["anchor"][name])
    assert second["fisher"].keys() - first["fisher"].keys() == {"task1.classifier.weight", "task1.classifier.bias"}
    count = {k: sum(t.numel() for t in past["fisher"].values()) for k, past in enumerate(one.methods[0].past)}
    assert one.cost()["statistics_bytes"] == 8 * (count[0] + count[1]) and two.cost()["statistics_bytes"] == 8 * count[1]


def test_ewc_term_by_hand():
    made = begun(toy.session("sequential", "methods.ewc={strength: 50}", of=toy.tasks("sea", "city", "farm")), 2, 4)
    (method,), now = made.methods, made.learner.trainable_parameters()
    expected = 0.0
    for past in method.past:
        for name, fisher in past["fisher"].items():
            expected += 25 * (fisher.double() * (now[name].detach().double() - past["anchor"][name].double()) ** 2).sum().item()
    assert len(method.past) == 2 and expected > 0
    assert method.terms(None, None)["ewc"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["ewc", "lwf"])
def test_without_strength_a_method_changes_no_bit(method):
    plain, made = toy.trained("sequential"), toy.trained("sequential", f"methods.{method}={{strength: 0}}")
    assert made.scores == plain.scores and toy.equal(toy.expert(made, "shared"), toy.expert(plain, "shared"))


# distillation -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
def test_distillation_is_torchs_kl_div(temperature):
    """Its gradient is that of the paper's cross-entropy with soft targets, without a factor of the squared temperature."""
    logits, teacher = draw(6, 5).requires_grad_(), 3 * draw(6, 5, seed=1)
    loss = distillation(logits, teacher, temperature)
    expected = nn.functional.kl_div(
        (logits / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean"
    )
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    paper = nn.functional.cross_entropy(logits / temperature, (teacher / temperature).softmax(-1))
    torch.testing.assert_close(gradient, torch.autograd.grad(paper, logits)[0])
    assert distillation(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf_term_by_hand(scenario):
    """Classes of past tasks, as before the task began; rows of the memory are left alone."""
    made = toy.session(
        "replay", "methods.lwf={strength: 3, temperature: 2}", of=toy.tasks("sea", "city", "farm"), scenario=scenario
    )
    before = after(made, 1, "TaskEnded").learner.predict(made.rows[2, "train"])
    method = next(method for method in made.methods if method.name == "lwf")
    assert method.state() == {} and method.terms(None, None) == {}, "nothing is kept between tasks"
    made.learner.add_task(2)
    method.begin_task(2, made.rows[2, "train"])
    old = {"task": [[0, 1], [2, 3]], "class": [[0, 1, 2, 3]], "domain": [[0, 1]]}[scenario]
    torch.testing.assert_close(method.before[:, : max(map(max, old)) + 1], before[:, : max(map(max, old)) + 1])
    own = made.rows[2, "train"][5:9]
    batch = made.learner.backbone.collate([*own[:3], *made.memory.rows[:2], *own[3:]])
    logits = draw(6, len(made.learner.head.space))
    mine = [0, 1, 2, 5]
    expected = sum(
        nn.functional.kl_div((logits[mine][:, g] / 2).log_softmax(-1), (before[5:9][:, g] / 2).softmax(-1), reduction="batchmean")
        for g in old
    )
    found = method.terms(batch, Output(logits, None))["lwf"]
    torch.testing.assert_close(found, 3 * expected)
    replayed = made.learner.backbone.collate(made.memory.rows[:2])
    assert method.terms(replayed, Output(draw(2, len(made.learner.head.space)), None)) == {}, (
        "a mean over no rows is not a number"
    )


# projection -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_projection_solves_the_quadratic_programme(seed):
    """min |x - g|^2 with x r >= 0, by scipy."""
    gradient, reference = draw(5, seed=seed).double(), draw(5, seed=seed + 100).double()
    found = project(gradient, reference)
    solved = scipy.optimize.minimize(
        lambda x: ((x - gradient.numpy()) ** 2).sum(),
        np.zeros(5),
        jac=lambda x: 2 * (x - gradient.numpy()),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: x @ reference.numpy(), "jac": lambda x: reference.numpy()},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    np.testing.assert_allclose(found.numpy(), solved.x, atol=1e-6)
    assert found @ reference >= -1e-12
    assert torch.equal(found, gradient) == (gradient @ reference >= 0)


def test_projection_against_nothing():
    assert torch.equal(project(draw(4), torch.zeros(4)), draw(4))


@pytest.mark.parametrize("recipe", ["sequential", "inclora"])
def test_agem_leaves_no_gradient_that_raises_the_loss_on_the_memory(recipe, monkeypatch):
    """The reference gradient is worked out again from the drawn examples; the products before and after are compared.

    One shared expert, and experts in a stack, whose gradients are parts of the stack's.
    """
    made = toy.session(recipe, "methods.agem={per_step: 12}", scenario="domain")
    (method,), learner, products = made.methods, made.learner, []
    real = type(method).adjust_gradients

    def watched(self):
        named = learner.trainable_parameters()
        before = torch.cat([p.grad.flatten() for p in named.values()])
        real(self)
        after = torch.cat([p.grad.flatten() for p in named.values()])
        if made.cursor.task == 0:
            assert torch.equal(before, after), "there is nothing to protect yet"
            return
        assert len(self.sampled) == 12 and all(row in made.memory.rows for row in self.sampled)
        batch = learner.backbone.collate(self.sampled)
        with learner.bank.routed(learner.decide(batch)):
            loss = nn.functional.cross_entropy(learner.head.logits(batch), batch.label)
            reference = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(named.values()))])
        torch.testing.assert_close(after, project(before, reference), rtol=1e-4, atol=1e-7)
        products.append(((before @ reference).item(), (after @ reference).item(), reference.square().sum().item()))

    monkeypatch.setattr(type(method), "adjust_gradients", watched)
    list(made.train())
    assert len(products) == 9 and any(before < 0 for before, _, _ in products)
    assert all(after >= -1e-5 * size for _, after, size in products)


# dark experience replay -------------------------------------------------------------------------------------------------------


def test_logit_distance_by_hand():
    unknown = -math.inf
    logits = torch.tensor([[1.0, 2.0, 5.0, unknown], [0.0, 1.0, 2.0, unknown]], requires_grad=True)
    stored = torch.tensor([[0.0, 4.0, unknown, unknown], [1.0, 1.0, 0.0, unknown]])
    found = logit_distance(logits, stored)
    assert found.item() == pytest.approx(((1 + 4) / 2 + (1 + 0 + 4) / 3) / 2)
    found.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -1.0, 0, 0], [-1 / 3, 0, 2 / 3, 0]]))


def test_derpp_stores_the_logits_of_the_classes_known_then():
    made = after(toy.session("sequential", "methods.derpp={}", of=toy.tasks("sea", "city", "farm")), 0)
    (method,), first = made.methods, made.learner.predict(made.memory.rows)
    kept = torch.stack([method.logits[row.key] for row in made.memory.rows])
    torch.testing.assert_close(kept, first)
    assert kept[:, :2].isfinite().all() and (kept[:, 2:] == -math.inf).all()
    list(made.train())
    later = torch.stack([method.logits[row.key] for row in made.memory.rows])
    assert torch.equal(later[:24], kept), "what was stored stays, whatever is learned later"
    assert [row.isfinite().sum().item() for row in later] == [2] * 24 + [4] * 24 + [6] * 24
    assert made.cost()["statistics_bytes"] == 72 * 6 * 4


def test_derpp_terms_by_hand():
    """Four drawn for each term; the loss of the task sees its own rows alone."""
    made = after(toy.session("sequential", "methods.derpp={alpha: 3, beta: 5, per_step: 4}"), 0, "TaskEnded")
    (method,), learner = made.methods, made.learner
    learner.add_task(1)
    own = made.rows[1, "train"][:3]
    rows = method.rows(own, torch.Generator().manual_seed(0))
    assert rows[:3] == own and [row.label for row in rows[3:]] == [UNLABELLED] * 8
    stored = {row.key: row for row in made.memory.rows}
    matched, replayed = rows[3:7], rows[7:]
    assert len({row.key for row in matched}) == len({row.key for row in replayed}) == 4
    assert {row.key for row in matched} != {row.key for row in replayed}, "two draws"
    logits = draw(12, 4)  # a row of another method comes last
    batch = learner.backbone.collate([*rows, own[0]])
    terms = method.terms(batch, Output(logits, None))
    old = torch.stack([method.logits[row.key] for row in matched])[:, :2]
    torch.testing.assert_close(terms["derpp_logits"], 3 * nn.functional.mse_loss(logits[3:7, :2], old))
    labels = torch.tensor([stored[row.key].label for row in replayed])
    torch.testing.assert_close(terms["derpp_labels"], 5 * nn.functional.cross_entropy(logits[7:11], labels))
    task = learner.head.loss(logits, batch)
    target = torch.tensor([row.label + 2 for row in [*own, own[0]]])
    torch.testing.assert_close(task, nn.functional.cross_entropy(logits[[0, 1, 2, 11]], target))


def test_derpp_with_a_memory_that_drops_examples():
    made = toy.trained(
        "sequential", "memory.per_task=0", "memory.total=10", "methods.derpp={}", of=toy.tasks("sea", "city", "farm")
    )
    (method,) = made.methods
    assert [*method.logits] == [row.key for row in made.memory.rows] and len(method.logits) == 10
    assert {row.task for row in made.memory.rows} == {0, 1, 2}
    assert all(method.logits[row.key].isfinite().sum() == 2 * (row.task + 1) for row in made.memory.rows)


# all methods ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_methods_compose(scenario):
    """All at once: every one has its terms, and the numbers stay finite."""
    made = toy.session("sequential", *(f"methods.{name}={{}}" for name in METHODS), "methods.ewc.strength=10", scenario=scenario)
    terms = [event.to_json()["terms"] for event in made.train() if type(event).__name__ == "Step"]
    assert all(set(named) == {"task"} for named in terms[:9])
    assert all(set(named) >= {"task", "ewc", "lwf", "derpp_logits", "derpp_labels"} for named in terms[9:])
    assert all(math.isfinite(value) for named in terms for value in named.values())
    assert len(made.scores.matrix) == 2 and made.uses()["stored_examples"] == 48


@pytest.mark.parametrize("name", METHODS)
def test_every_method_forgets_less(name):
    """With the task given at test, training on keeps three quarters of the first task; every remedy nearly all."""
    options = "train.epochs=4", "experts.skip=0"
    learned, kept = (row[0] for row in toy.trained("sequential", f"methods.{name}={{}}", *options, scenario="task").scores.matrix)
    plain = toy.trained("sequential", *options, scenario="task").scores.matrix[-1][0]
    assert plain <= 0.8 and learned == 1 and kept >= plain + 0.15


@pytest.mark.parametrize("name", [name for name in recipe_names() if configure(name).methods])
def test_recipes_with_methods_run(name):
    made = toy.trained(name)
    assert [method.name for method in made.methods] == [*configure(name).methods]
    assert made.uses()["stored_examples"] == (len(made.memory) if any(method.uses_memory for method in made.methods) else 0)
    assert all(0 <= score <= 1 for score in made.scores.matrix[-1])


def test_gradients_are_adjusted_in_training_on_a_task_only():
    """What projects against the memory must not touch the routers and classifiers that are trained on the memory."""

    class Note(Method):
        name = "note"
        phases: list[str] = []

        def adjust_gradients(self):
            self.phases.append(made.cursor.phase)

    made = toy.session("sequential", "router_training.steps=5")
    made.methods = [Note(Options(), made.learner, made.memory)]
    phases = [event.phase for event in made.train() if type(event).__name__ == "Step"]
    assert phases == ["train"] * 18 + ["memory"] * 5 and made.methods[0].phases == ["train"] * 18


def test_what_a_method_does_between_tasks_counts_as_training_time(monkeypatch):
    clock = 0.0

    class Slow(Method):
        name = "slow"

        def begin_task(self, t, rows):
            nonlocal clock
            clock += 100

        def end_task(self, t, rows):
            nonlocal clock
            clock += 7

    made = toy.session("sequential")
    made.methods = [Slow(Options(), made.learner, made.memory)]
    monkeypatch.setattr("lab.training.trainer.time.perf_counter", lambda: clock)
    list(made.train())
    assert made.cost()["train_s"] == 2 * 107
