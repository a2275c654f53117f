"""Routing: which expert gets what share on which task, in which layer and routing head, and how that changed."""

import math
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy

from lab.core.errors import LabError
from lab.run_folder.prediction import kept
from lab.run_folder.routing_record import Routing
from lab.run_folder.run import Run

BANDS = 30  # of a flow, up to which it can be read
ORDERS = ("stream", "likeness", "groups")  # in which tasks and experts can stand


def routing_by_task(run: Run, after: int | None = None, layer: int | None = None, head: int | None = None) -> pd.DataFrame:
    """Mean share of each expert in the routing of each task seen: (tasks seen, E); rows sum to one.

    With `layer` or `head`, counted from 0, only what was decided there: mean weights, rescaled to sum to one in each head.
    LabError for a layer or a routing head that is not there.
    """
    routing = run.routing(after)
    shares = np.full((len(routing.tasks), len(routing.experts)), np.nan)
    for task in range(len(routing.tasks)):
        if f"{task}/share_sum" in routing.arrays:
            shares[task] = routing.share(task) if layer is head is None else _part(run, routing.mean(task), layer, head)
    return pd.DataFrame(shares, index=pd.Index(routing.tasks, name="task"), columns=pd.Index(routing.experts, name="expert"))


def _part(run: Run, weights: np.ndarray, layer: int | None, head: int | None) -> np.ndarray:
    """Share of each expert in one layer, one routing head, or both, of mean weights (L, H, E): (E,)."""
    for axis, (name, index) in enumerate((("layer", layer), ("routing head", head))):
        if index is not None:
            if not 0 <= index < weights.shape[axis]:
                raise LabError(f"run '{run.id}' has no {name} {index}: use 0 to {weights.shape[axis] - 1}")
            weights = weights.take([index], axis)
    return (weights / weights.sum(-1, keepdims=True).clip(1e-12)).mean((0, 1))


def routing_map(
    run: Run, after: int | None = None, layer: int | None = None, head: int | None = None, order: str = "stream", find: str = ""
) -> pd.DataFrame:
    """`routing_by_task` of many tasks and experts, so that it can be read; `attrs` "rows" and "columns" say which tasks and
    experts (numbers) stand in each row and column.

    `order`: "stream"; "likeness", where tasks with similar routing are neighbours, and so are the experts they use; "groups", one
    row per group of like tasks (means) and one column per group of experts (sums). `find`: words separated by commas; only
    tasks and experts with one of them in their names stay, all of them where no name has one. LabError for another order.
    """
    table = routing_by_task(run, after, layer, head)
    if order not in ORDERS:
        raise LabError(f"order '{order}' is unknown: use {', '.join(ORDERS)}")
    words = [word.strip().lower() for word in find.split(",") if word.strip()]
    rows, columns = (_found(names, words) for names in (table.index, table.columns))
    table = table.iloc[rows, columns]
    values = table.fillna(0.0).to_numpy()
    row_tree, column_tree = _tree(values), _tree(values.T)
    row_groups, column_groups = [[i] for i in range(len(rows))], [[j] for j in range(len(columns))]
    if order == "likeness":
        row_groups, column_groups = _leaves(row_tree, len(rows)), _leaves(column_tree, len(columns))
        names = [table.index[i] for (i,) in row_groups]
        if set(names) == set(table.columns):  # every task has an expert of its own: these stand on the diagonal
            column_groups = [[table.columns.get_loc(name)] for name in names]
    elif order == "groups":
        row_groups, column_groups = _clusters(row_tree, len(rows)), _clusters(column_tree, len(columns))
    joined = [[values[np.ix_(of, to)].sum(1).mean() for to in column_groups] for of in row_groups]
    if order != "groups":  # a task without recorded routing stays blank
        joined = table.iloc[[i for (i,) in row_groups], [j for (j,) in column_groups]].to_numpy()
    index, across = (
        pd.Index([_group_name([names[k] for k in group]) for group in groups], name=name)
        for names, groups, name in ((table.index, row_groups, "task"), (table.columns, column_groups, "expert"))
    )
    drawn = pd.DataFrame(joined, index, across)
    drawn.attrs = {
        "rows": [[rows[i] for i in group] for group in row_groups],
        "columns": [[columns[j] for j in group] for group in column_groups],
    }
    return drawn


def _found(names: Collection[str], words: Collection[str]) -> list[int]:
    """Numbers of the names with one of the words in them; of all where there is none."""
    found = [i for i, name in enumerate(names) if any(word in str(name).lower() for word in words)]
    return found or [*range(len(names))]


def _tree(values: np.ndarray) -> np.ndarray | None:
    """The tree of like rows (Ward's method on square roots, so that their distance is that of Hellinger); None of one row."""
    if len(values) < 2:
        return None
    shares = values / np.maximum(values.sum(1, keepdims=True), 1e-12)
    return hierarchy.linkage(np.sqrt(np.clip(shares, 0, None)), "ward", optimal_ordering=len(values) <= 200)


def _leaves(tree: np.ndarray | None, count: int) -> list[list[int]]:
    """The rows one by one, like ones beside each other."""
    return [[int(i)] for i in (hierarchy.leaves_list(tree) if tree is not None else range(count))]


def _clusters(tree: np.ndarray | None, count: int) -> list[list[int]]:
    """About the square root of `count` groups of like rows, in the order of the tree."""
    if tree is None:
        return [[*range(count)]]
    of = hierarchy.fcluster(tree, round(math.sqrt(count)) + 1, "maxclust")
    groups: dict[int, list[int]] = {}
    for i in hierarchy.leaves_list(tree):
        groups.setdefault(of[i], []).append(int(i))
    return [*groups.values()]


def _group_name(names: list[str]) -> str:
    """A name for a group: its first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def shares_by_head(run: Run, after: int | None = None) -> np.ndarray:
    """Share of each expert in every layer and routing head on each task seen: (T, L, H, E); NaN where nothing was recorded."""
    routing = run.routing(after)
    recorded = [t for t in range(len(routing.tasks)) if f"{t}/count" in routing.arrays]
    means = {t: routing.mean(t) for t in recorded}
    shape = next(iter(means.values())).shape if means else (0, 0, 0)
    shares = np.full((len(routing.tasks), *shape), np.nan)
    for t, mean in means.items():
        shares[t] = mean / mean.sum(-1, keepdims=True).clip(1e-12)
    return shares


def times_equal(run: Run, layer: int | None = None, head: int | None = None, by_head: bool = False) -> float:
    """The largest share of an expert on a task that a run has recorded at any moment, in multiples of the equal share.

    Of the means that `routing_by_task` gives or, with `by_head`, in a single layer and routing head. Colours of a run end here,
    so that one means the same at all moments.
    """
    largest = [1.0]
    for after in run.recorded():
        with suppress(LabError):  # a damaged moment is told where it is shown
            shares = shares_by_head(run, after) if by_head else routing_by_task(run, after, layer, head).to_numpy()
            largest.append(float(np.nanmax(shares, initial=0.0)) * shares.shape[-1])
    return max(largest)


def routing_panels(
    run: Run, after: int | None = None, panels: str = "layers", task: int | None = None, layer: int | None = None
) -> pd.DataFrame:
    """Shares as small tables under each other, rows (panel, expert), columns routing heads or tasks.

    `panels`: "layers", a panel per layer, with a column per routing head on one task, or per task (means over routing heads)
    where `task` is None; "heads", a panel per routing head with a column per task, in one layer or (None) as the mean over them.
    """
    routing, shares = run.routing(after), shares_by_head(run, after)  # (T, L, H, E)
    if panels == "heads":
        tables = np.moveaxis(shares.mean(1) if layer is None else shares[:, layer], 0, -1)  # (H, E, T)
        names, columns = [f"head {h + 1}" for h in range(len(tables))], pd.Index(routing.tasks, name="task")
    else:
        names = layer_names(routing.layers)
        if task is None:
            tables, columns = shares.mean(2).transpose(1, 2, 0), pd.Index(routing.tasks, name="task")  # (L, E, T)
        else:
            tables = shares[task].transpose(0, 2, 1)  # (L, E, H)
            columns = pd.Index([str(h + 1) for h in range(tables.shape[-1])], name="routing head")
    index = pd.MultiIndex.from_product([names, routing.experts], names=[panels.removesuffix("s"), "expert"])
    return pd.DataFrame(tables.reshape(-1, tables.shape[-1]), index, columns)


def head_difference(run: Run, after: int | None = None) -> pd.Series:
    """How much the routing heads of a layer differ on each task, from 0 (all choose alike) to 1 (as different as can be).

    The square root of the Jensen-Shannon divergence of their shares, in parts of its largest value, mean over layers.
    """
    shares = shares_by_head(run, after)  # (T, L, H, E)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log2(np.clip(p, 1e-12, None))).sum(-1)

    spread = entropy(shares.mean(2)) - entropy(shares).mean(2)
    most = math.log2(max(2, min(shares.shape[2:])))
    values = np.sqrt(np.clip(spread / most, 0, 1)).mean(1)
    return pd.Series(values, pd.Index(run.routing(after).tasks, name="task"), name="difference of heads")


def nearest_examples(run: Run, after: int | None, query: np.ndarray, most: int = 8) -> pd.DataFrame:
    """The recorded test examples that a router sees as most like a query (D,): task, number, text, likeness (cosine), prediction,
    label, and expert, the one with the largest part of the weights.

    The cosine is taken after the mean of all recorded queries is subtracted: those of a backbone point in much the same
    direction. LabError where no queries are recorded.
    """
    routing = run.routing(after)
    stored = {t: points.astype(float) for t in range(len(routing.tasks)) if (points := routing.queries(t)) is not None}
    if not stored:
        raise _no_queries(run)
    centre = np.concatenate([*stored.values()]).mean(0)
    wanted = np.asarray(query, dtype=float) - centre
    rows = []
    for t, points in stored.items():
        apart = points - centre
        norms = np.linalg.norm(apart, axis=1) * max(float(np.linalg.norm(wanted)), 1e-12)
        for number, (answer, likeness) in enumerate(zip(kept(run, after, t), apart @ wanted / norms.clip(1e-12), strict=True)):
            rows.append(
                {
                    "task": routing.tasks[t],
                    "number": number,
                    "text": answer.text,
                    "likeness": float(likeness),
                    "prediction": answer.prediction,
                    "label": answer.label,
                    "expert": str(answer.by_expert().idxmax()),
                }
            )
    return pd.DataFrame(rows).sort_values("likeness", ascending=False, kind="stable").head(most).reset_index(drop=True)


def _no_queries(run: Run) -> LabError:
    return LabError(
        f"run '{run.id}' has no queries recorded: its router chooses token by token, by the task, or not at all, or the run "
        "is of an earlier version. Routers with one query per text (attention, gates, l2p, prototype) record theirs"
    )


def routing_by_layer(run: Run, after: int | None, task: int, expert: int, measure: str = "weight") -> pd.DataFrame:
    """One number per layer and routing head on the test examples of a task: (L, H).

    `measure`: "weight", the mean weight of the expert; "entropy" of all weights, from 0 (one expert takes all) to 1 (all have the
    same); "change" since the task was learned, the Jensen-Shannon distance (base 2, 0 to 1) of the mean weights then and now; NaN
    if that moment was not recorded.
    """
    routing = run.routing(after)
    if not (0 <= task < len(routing.tasks) and 0 <= expert < len(routing.experts)):
        raise LabError(f"run '{run.id}' has no task {task} or expert {expert} recorded after task {after}")
    if measure == "weight":
        values = routing.mean(task)[:, :, expert]
    elif measure == "entropy":
        values = routing.entropy(task) / max(math.log(len(routing.experts)), 1e-9)
    elif measure == "change":
        values = _change(run, routing, task)
    else:
        raise LabError(f"measure '{measure}' is unknown: use weight, entropy or change")
    heads = pd.Index([f"head {h + 1}" for h in range(values.shape[1])], name="routing head")
    return pd.DataFrame(values, index=pd.Index(routing.layers, name="layer"), columns=heads)


def _change(run: Run, now: Routing, task: int) -> np.ndarray:
    """Jensen-Shannon distance of the mean weights when the task was learned and now, (L, H)."""
    means = now.mean(task)
    if task not in run.recorded():
        return np.full(means.shape[:2], np.nan)
    then = run.routing(task).mean(task)
    then = np.pad(then, ((0, 0), (0, 0), (0, means.shape[-1] - then.shape[-1])))  # later experts had no weight then
    p, q = (np.clip(w, 0, None) / np.clip(w, 1e-12, None).sum(-1, keepdims=True) for w in (then, means))
    middle = (p + q) / 2

    def divergence(w: np.ndarray) -> np.ndarray:
        return (w * np.log2(np.where(w > 0, w / np.where(middle > 0, middle, 1), 1))).sum(-1)

    return np.sqrt(np.clip((divergence(p) + divergence(q)) / 2, 0, 1))


def routing_profile(run: Run, after: int | None, task: int, order: str = "stream", find: str = "") -> pd.DataFrame:
    """Mean weight of every expert in every layer on the test examples of a task, mean over routing heads: (L, E).

    `order` and `find` of the experts, and `attrs` "columns", as of `routing_map` over all layers; of groups it is the sum.
    """
    routing = run.routing(after)
    across = routing_map(run, after, order=order, find=find)
    weights = routing.mean(task).mean(1)
    joined = np.stack([weights[:, group].sum(1) for group in across.attrs["columns"]], 1)
    profile = pd.DataFrame(joined, index=pd.Index(routing.layers, name="layer"), columns=across.columns)
    profile.attrs = {"columns": across.attrs["columns"]}
    return profile


def largest_weight(run: Run) -> float:
    """The largest weight that a run has recorded at any moment, as the mean of a task or for one example; at least 1.

    Charts of weights of a run end here, so that a colour means the same at all its moments. Weights need not sum to one.
    """
    largest = [1.0]
    for after in run.recorded():
        with suppress(LabError):  # a damaged moment is told where it is shown
            routing = run.routing(after)
            for t in range(len(routing.tasks)):
                if f"{t}/count" in routing.arrays:
                    examples = routing.arrays.get(f"{t}/examples", np.zeros(1))
                    largest += [float(np.nanmax(routing.mean(t))), float(np.nanmax(examples, initial=0.0))]
    return max(largest)


def routing_load(run: Run, after: int | None = None) -> pd.DataFrame:
    """What each expert has to do: `load`, its mean share over the tasks seen (they sum to one), and `largest`, on which part of
    all choices its weight is the largest."""
    routing, shares = run.routing(after), routing_by_task(run, after).dropna(how="all")
    top = np.mean([routing.top1(t).mean((0, 1)) for t in range(len(routing.tasks)) if f"{t}/count" in routing.arrays], axis=0)
    return pd.DataFrame({"load": shares.mean(), "largest": top})


def routing_entropy(run: Run, after: int | None = None) -> pd.Series:
    """Mean entropy of the routing of each task, from 0 (one expert takes all) to 1 (all have the same weight)."""
    routing = run.routing(after)
    most = max(math.log(len(routing.experts)), 1e-9)
    values = [routing.entropy(t).mean() / most if f"{t}/count" in routing.arrays else np.nan for t in range(len(routing.tasks))]
    return pd.Series(values, pd.Index(routing.tasks, name="task"), name="entropy")


def layer_names(paths: Collection[str]) -> list[str]:
    """The telling parts of module paths, 'encoder.layer.3.attention.self.query' as '3 · query'; whole paths where these clash."""
    short = []
    for path in paths:
        parts = path.split(".")
        number = next((part for part in parts if part.isdigit()), "")
        short.append(f"{number} · {parts[-1]}" if number and parts[-1] != number else path)
    return [path if short.count(name) > 1 else name for name, path in zip(short, paths, strict=True)]


def routing_drift(run: Run, after: int | None = None) -> pd.DataFrame:
    """Change of the shares since each task was learned: (tasks seen, E); a row is NaN if that moment was not recorded.

    An expert that did not exist then had a share of 0, so the share that later experts took is their gain.
    """
    now = routing_by_task(run, after)
    moments = set(run.recorded())
    rows = []
    for task, name in enumerate(now.index):
        if task in moments:
            then = routing_by_task(run, task)
            rows.append((now.iloc[task] - then.iloc[task].reindex(now.columns, fill_value=0.0)).rename(name))
        else:
            rows.append(pd.Series(np.nan, index=now.columns, name=name))
    return pd.DataFrame(rows).rename_axis("task")


def own_expert(run: Run, after: int, task: int) -> int:
    """The expert named like the task, else the one with the largest share."""
    shares = routing_by_task(run, after)
    name = shares.index[task]
    return list(shares.columns).index(name) if name in shares.columns else int(np.nanargmax(shares.iloc[task].to_numpy()))


def own_share(run: Run, after: int) -> float:
    """Mean over the tasks seen of the share of the expert named like the task; NaN where there are no such experts."""
    shares = routing_by_task(run, after)
    own = [shares.at[name, name] for name in shares.index if name in shares.columns]
    return float(np.mean(own)) if own else math.nan


def routed_examples(run: Run, after: int | None, task: int) -> pd.DataFrame:
    """Test examples of a task that were kept whole: text, label, prediction, correct, probability, and each expert's share.

    Columns of experts are prefixed with "share: ". Where no predictions are stored, label and correct are None.
    """
    columns = ["text", "label", "prediction", "correct", "probability"]
    rows = []
    for example in kept(run, after, task):
        correct = None if example.label is None else example.label == example.prediction
        row = dict(
            zip(columns, (example.text, example.label, example.prediction, correct, float(example.probabilities[0])), strict=True)
        )
        rows.append(row | {f"share: {name}": share for name, share in example.by_expert().items()})
    return pd.DataFrame(rows, columns=None if rows else columns)


def routing_flow(run: Run, after: int | None = None, layer: int | None = None) -> pd.DataFrame:
    """Weight that each task sends to each expert, long form: task, expert, weight, own (the expert is named like the task).

    Means over test examples and routing heads, in one layer (its number) or over all. Weights are as recorded: those of a task
    need not sum to one. LabError for a layer that is not there.
    """
    routing = run.routing(after)
    if layer is not None and not 0 <= layer < len(routing.layers):
        raise LabError(f"run '{run.id}' has {len(routing.layers)} layers, numbered from 0; layer {layer} is none of them")
    rows = []
    for t, task in enumerate(routing.tasks):
        if f"{t}/count" in routing.arrays:
            mean = routing.mean(t)  # (L, H, E)
            weights = mean.mean((0, 1)) if layer is None else mean[layer].mean(0)
            pairs = zip(routing.experts, weights, strict=True)
            rows += [{"task": task, "expert": name, "weight": float(weight), "own": name == task} for name, weight in pairs]
    return pd.DataFrame(rows, columns=["task", "expert", "weight", "own"])


def strongest_bands(flow: pd.DataFrame, most: int = BANDS) -> pd.DataFrame:
    """The rows of `routing_flow` that can be read: the largest of each task, as many of one as of another, `most` in all.

    Every task keeps one at least.
    """
    kept = max(1, most // max(flow["task"].nunique(), 1))
    return flow.loc[flow.groupby("task")["weight"].rank(method="first", ascending=False) <= kept]


def routing_history(run: Run) -> pd.DataFrame:
    """`routing_by_task` at every recorded moment, long form: after, task, expert, share."""
    moments: list[tuple[int, Any]] = [(after, routing_by_task(run, after).stack()) for after in run.recorded()]
    tables = [shares.rename("share").reset_index().assign(after=after) for after, shares in moments]
    columns = ["after", "task", "expert", "share"]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns) if tables else pd.DataFrame(columns=columns)


def query_map(run: Run, after: int | None = None) -> pd.DataFrame:
    """Recorded queries and the router's keys on the two main axes of the queries: kind ("query" or "key"), task (of a key the
    expert it belongs to), text, correct, x, y; `attrs["explained"]` is the part of the queries' variance on each axis.

    The axes are the principal components of the queries at the last moment, so that a query that does not change stays where it
    is. `correct` is None where no predictions are stored. LabError where no queries are recorded.
    """
    now, last = run.routing(after), run.routing()
    queries = {t: points for t in range(len(now.tasks)) if (points := now.queries(t)) is not None}
    if not queries:
        raise _no_queries(run)
    of_last = [points for t in range(len(last.tasks)) if (points := last.queries(t)) is not None]
    centre, axes, explained = _principal(np.concatenate(of_last or [*queries.values()]).astype(float))
    rows = []
    for t, points in queries.items():
        for answer, (x, y) in zip(kept(run, after, t), (points - centre) @ axes, strict=True):
            correct = None if answer.label is None else answer.label == answer.prediction
            rows.append({"kind": "query", "task": now.tasks[t], "text": answer.text, "correct": correct, "x": x, "y": y})
    keys, owners = now.keys()
    for key, owner in zip(keys, owners, strict=True):
        if np.isfinite(key).all():
            x, y = (key - centre) @ axes
            rows.append({"kind": "key", "task": now.experts[owner], "text": "", "correct": None, "x": x, "y": y})
    table = pd.DataFrame(rows).astype({"correct": object})
    table.attrs["explained"] = explained
    return table


def _principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Centre (D,), the two main axes (D, 2) and the part of the variance on each, of points (N, D); largest entries positive."""
    centre = points.mean(0)
    _, sizes, axes = np.linalg.svd(points - centre, full_matrices=False)
    axes = np.pad(axes[:2], ((0, max(0, 2 - len(axes))), (0, 0))).T
    signs = np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    parts = (sizes**2 / max((sizes**2).sum(), 1e-12))[:2]
    return centre, axes * np.where(signs == 0, 1, signs), [float(part) for part in parts]
