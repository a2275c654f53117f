"""Run folders written by hand, so that screens are tested without training anything."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lab.core import atomic_io
from lab.run_folder.run import Run
from lab.run_folder.writer import append_event, create_run, update_info

TASKS = ["animals", "weather", "cooking"]


LAYERS = [f"encoder.layer.{n}.attention.self.{part}" for n in range(4) for part in ("query", "value")]


FORGETS = [[0.91, None, None], [0.55, 0.93, None], [0.32, 0.61, 0.95]]


KEEPS = [[0.90, None, None], [0.88, 0.92, None], [0.86, 0.91, 0.94]]


def configuration(recipe: str = "l2r", seed: int = 0, tasks: list[str] = TASKS, **changes: Any) -> dict[str, Any]:
    """A resolved configuration as plain values."""
    config = {
        "recipe": recipe,
        "about": f"what {recipe} is",
        "scenario": "class",
        "seed": seed,
        "stream": {"name": "builtin", "tasks": tasks, "max_train": 100},
        "backbone": {"name": "tiny"},
        "router": {"name": "gates", "temperature": 1.0 if recipe == "l2r" else 0.5},
        "train": {"lr": 0.001, "epochs": 2},
    }
    return config | changes


def write_run(
    runs: Path,
    id: str,
    recipe: str = "l2r",
    matrix: list[list[float | None]] = KEEPS,
    tasks: list[str] = TASKS,
    status: str = "finished",
    seed: int = 0,
    routed: bool = True,
    events: bool = True,
    heads: int = 4,
    texts: list[str] | None = None,
    **scores: Any,
) -> Run:
    """A run folder as training leaves it: matrix, events, predictions and, with `routed`, routing after every task."""
    run = create_run(configuration(recipe, seed, tasks), runs, id, status)
    labels = [["no", "yes"] for _ in tasks]
    plain = {
        "tasks": tasks,
        "labels": labels,
        "matrix": matrix,
        "partial": [],
        "zero_shot": [0.1] * len(tasks),
        "validation": None,
    }
    atomic_io.write_json(run.dir / "matrix.json", plain | {"oracle": None} | scores)
    if events:
        write_events(run, tasks, len(matrix), finished=status == "finished")
    for after in range(len(matrix)):
        write_predictions(run, tasks, after, texts)
        if routed:
            write_routing(run, tasks, after, heads, texts)
    if status == "finished":
        routing = {"own_expert_share": 0.71, "oracle_average_accuracy": 0.93} if routed else None
        uses = {"task_id": False, "stored_examples": 60, "generated_examples": 0}
        cost = {
            "trainable_parameters": 256,
            "stored_parameters": 256,
            "stored_bytes": 2048,
            "adapter_bytes": 1024,
            "memory_bytes": 1024,
            "statistics_bytes": 0,
            "train_s": 12.5,
            "reused_s": 4.5,
            "eval_s": 3.0,
            "peak_memory_bytes": 1_000_000,
        }
        update_info(
            run,
            started="2026-01-31T10:00:00.000+00:00",
            ended="2026-01-31T10:01:00.000+00:00",
            routing=routing,
            uses=uses,
            cost=cost,
        )
    return run


def write_transfer(runs: Path, id: str, recipe: str = "mhr", seed: int = 0) -> Run:
    """A run folder as joint training on two tasks and adaptation to a third one leave it."""
    train, held, stages = TASKS[:2], TASKS[2], ["joint training", f"{TASKS[2]}, 8 shots", f"{TASKS[2]}, 32 shots"]
    protocol = {"name": "transfer", "train_tasks": train, "held_out": [held], "shots": [8, 32]}
    more = {"scenario": "task", "experts": {"name": "lora", "allocation": 2}, "protocol": protocol}
    run = create_run(configuration(recipe, seed, **more), runs, id, "finished")
    atomic_io.write_json(
        run.dir / "matrix.json",
        {
            "protocol": "transfer",
            "tasks": stages,
            "labels": [["no", "yes"]] * 3,
            "train_tasks": train,
            "trained": dict(zip(train, (0.9, 0.8), strict=True)),
            "zero_shot": {held: 0.5},
            "held_out": {held: {"8": 0.6, "32": 0.7}},
            "validation": {held: {"8": 0.62, "32": 0.72}},
            "alignment": {"10": 0.1, "20": 0.3},
            "done": [0.85, 0.6, 0.7],
        },
    )
    write_events(run, stages, len(stages), finished=True)
    write_routing(run, TASKS, 1, 4, None)
    (run.dir / "routing" / "after_1.safetensors").rename(run.dir / "routing" / "after_0.safetensors")
    write_predictions(run, train, 1, None)
    uses = {"task_id": True, "stored_examples": 0, "generated_examples": 0}
    cost = dict.fromkeys(
        (
            "trainable_parameters",
            "adapted_parameters",
            "stored_parameters",
            "stored_bytes",
            "adapter_bytes",
            "memory_bytes",
            "statistics_bytes",
            "train_s",
            "reused_s",
            "eval_s",
            "peak_memory_bytes",
        ),
        7,
    )
    update_info(
        run, started="2026-01-31T10:00:00.000+00:00", ended="2026-01-31T10:01:00.000+00:00", routing=None, uses=uses, cost=cost
    )
    return run


def write_events(run: Run, tasks: list[str], learned: int, finished: bool, steps: int = 20) -> None:
    """Events of `learned` tasks, and of half a task more if the run is not finished."""

    def progress(task: int, step: int) -> float:
        return (task + step / steps) / len(tasks)

    now = 1_700_000_000.0
    started = {
        "tasks": tasks,
        "labels": [["no", "yes"]] * len(tasks),
        "layers": LAYERS,
        "device": "cpu",
        "examples": [100] * len(tasks),
    }
    append_event(run, {"kind": "RunStarted", **started, "progress": 0.0, "time": now})
    for task in range(learned if finished else min(learned + 1, len(tasks))):
        half = task == learned
        more = {"experts": task + 1, "trainable_parameters": 100, "reused": False, "progress": progress(task, 0)}
        append_event(run, {"kind": "TaskStarted", "task": task, "name": tasks[task], **more, "time": now + 10 * task})
        for step in range(1, (steps // 2 if half else steps) + 1):
            place = {"task": task, "phase": "train", "epoch": int(step > steps // 2), "epochs": 2, "step": step, "steps": steps}
            terms = {"terms": {"task": 1.0 / step, "balance": 0.01}, "lr": 0.001, "progress": progress(task, step)}
            append_event(run, {"kind": "Step", **place, **terms, "time": now + 10 * task + step / 4})
        if not half:
            stored = {"stored_examples": 20 * (task + 1), "stored_bytes": 2048, "progress": progress(task + 1, 0)}
            append_event(run, {"kind": "TaskEnded", "task": task, "name": tasks[task], **stored, "time": now + 10 * task + 9})
    if finished:
        append_event(run, {"kind": "RunEnded", "cost": {}, "uses": {}, "progress": 1.0, "time": now + 10 * learned})


def example_texts(task: str, texts: list[str] | None) -> list[str]:
    return texts or [f"A sentence about {task}.", f"Another one about {task}, a little longer."]


def write_predictions(run: Run, tasks: list[str], after: int, texts: list[str] | None) -> None:
    """Test predictions on all tasks seen after task `after`."""
    rows = []
    for name in tasks[: after + 1]:
        for row in range(len(example_texts(name, texts))):
            rows.append(
                {
                    "task": name,
                    "row": row,
                    "label": f"{name}/yes",
                    "prediction": f"{name}/{'yes' if row == 0 else 'no'}",
                    "correct": row == 0,
                    "probability": 0.9 - 0.1 * row,
                }
            )
    (run.dir / "predictions").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(run.dir / "predictions" / f"after_{after}.parquet")


def weights(task: int, experts: int, layers: int, heads: int) -> np.ndarray:
    """Routing weights of one example: (L, H, E), more to the task's own expert in later layers; sums to one."""
    own = np.linspace(0.4, 0.95, layers)[:, None] - 0.02 * np.arange(heads)[None]
    found = np.repeat(((1 - own) / max(experts - 1, 1))[:, :, None], experts, axis=2)
    found[:, :, task] = own if experts > 1 else 1.0
    return found.astype(np.float32)


def write_routing(run: Run, tasks: list[str], after: int, heads: int, texts: list[str] | None) -> None:
    """Routing of all tasks seen after task `after`, one expert per task."""
    arrays: dict[str, np.ndarray] = {}
    kept = {str(task): example_texts(tasks[task], texts) for task in range(after + 1)}
    for task in range(after + 1):
        one = weights(task, after + 1, len(LAYERS), heads)
        count = 10
        arrays |= {
            f"{task}/weight_sum": one * count,
            f"{task}/top_count": (one == one.max(-1, keepdims=True)) * float(count),
            f"{task}/entropy_sum": -(one * np.log(one.clip(1e-9))).sum(-1) * count,
            f"{task}/share_sum": one.mean((0, 1)) * count,
            f"{task}/count": np.array([count]),
            f"{task}/examples": np.repeat(one[None], len(kept[str(task)]), axis=0),
            f"{task}/rows": np.arange(len(kept[str(task)])),
            f"{task}/steps/logits": np.repeat(np.log(one)[None], len(kept[str(task)]), axis=0),
        }
    about = {"tasks": tasks[: after + 1], "layers": LAYERS, "experts": tasks[: after + 1], "texts": kept, "steps": ["logits"]}
    atomic_io.write_arrays(run.dir / "routing" / f"after_{after}.safetensors", arrays, {"about": atomic_io.json.dumps(about)})


def write_pool(runs: Path, id: str, tasks: int, experts: int) -> Run:
    """A run with routing of many tasks over a pool of experts at one moment; random weights that sum to one."""
    run = write_run(runs, id, "mhr", routed=False)
    names, draw = [f"task-{t}" for t in range(tasks)], np.random.default_rng(tasks + experts)
    arrays = {}
    for task in range(tasks):
        one = draw.dirichlet(np.ones(experts), (2, 1)).astype(np.float32)  # (L, H, E)
        entropy = -(one * np.log(one.clip(1e-9))).sum(-1)
        arrays |= {
            f"{task}/weight_sum": one,
            f"{task}/top_count": (one == one.max(-1, keepdims=True)).astype(np.float32),
            f"{task}/entropy_sum": entropy,
            f"{task}/share_sum": one.mean((0, 1)),
            f"{task}/count": np.ones(1),
            f"{task}/examples": one[None],
            f"{task}/rows": np.zeros(1),
            f"{task}/steps/logits": np.log(one)[None],
        }
    about = {
        "tasks": names,
        "layers": LAYERS[:2],
        "experts": [f"pool-{e}" for e in range(experts)],
        "steps": ["logits"],
        "texts": {str(task): ["A sentence."] for task in range(tasks)},
    }
    path = run.dir / "routing" / "after_0.safetensors"
    path.parent.mkdir(exist_ok=True)
    atomic_io.write_arrays(path, arrays, {"about": atomic_io.json.dumps(about)})
    return run


def write_queries(run: Run, keys: bool = True) -> None:
    """Queries of the recorded examples at every moment, the same at each, and a key per expert: random, (2, 5) per task."""
    draw = np.random.default_rng(0).standard_normal
    queries = {task: draw((2, 5)).astype(np.float16) + 3 for task in range(3)}
    owned = {"keys": draw((3, 5)).astype(np.float16), "key_experts": np.arange(3)}
    for after, path in enumerate(sorted((run.dir / "routing").glob("after_*"))):
        arrays, header = atomic_io.read_arrays(path)
        arrays |= {f"{task}/query": queries[task] for task in range(after + 1)}
        arrays |= {name: array[: after + 1] for name, array in owned.items()} if keys else {}
        atomic_io.write_arrays(path, arrays, header)
