"""Answers per second on 10,000 short texts, beside the run's own evaluation and a plain pipeline of the backbone.

    pytest -n 0 -s -m slow tests/inference/test_speed.py

All three pass the same texts in batches of 64, in turn, in one process; medians of three turns.
"""

import statistics
import time

import numpy as np
import pytest
import transformers
from support import toy

import lab
from lab.data.batching import UNLABELLED
from lab.inference.loading import load
from lab.training.evaluation import evaluate
from lab.training.trainer import Session, prepare

TEXTS, BATCH = 10_000, 64


@pytest.mark.slow
def test_texts_per_second(tmp_path):
    tasks = toy.tasks("sea", "city", "farm")
    options = ["train.epochs=1", "memory.per_task=8", "router_training.steps=2", "backbone.dtype=float32", "backbone.device=cpu"]
    config = prepare(lab.configure("l2r", options, backbone="minilm"), tasks)
    run = toy.recorded(Session(config, tasks), tmp_path)
    model = load(run)
    backbone = model.learner.backbone
    draw = np.random.default_rng(0)
    words = ["red", "blue", "a", "the", *" ".join(toy.TOPICS.values()).split()]
    texts = [" ".join(draw.choice(words, draw.integers(6, 16))) for _ in range(TEXTS)]
    plain = str(backbone.folder)
    pipeline = transformers.pipeline("feature-extraction", plain, batch_size=BATCH, device="cpu")
    examples = [toy.Example(text, 0) for text in texts]

    def evaluated():
        rows = [row._replace(label=UNLABELLED) for row in backbone.encode(examples, 0, "asked")]
        evaluate(model.learner, rows, len(tasks), BATCH)
        if backbone.lower:
            backbone.lower.states_of.clear()  # which a later evaluation of the same rows would find

    ways = {
        "predict": lambda: model.predict(texts, batch_size=BATCH),
        "evaluation": evaluated,
        "pipeline": lambda: pipeline(texts),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, ask in ways.items():
            began = time.perf_counter()
            ask()
            times[name].append(time.perf_counter() - began)
    rates = {name: TEXTS / statistics.median(own) for name, own in times.items()}
    print({name: f"{rate:,.0f} texts/s" for name, rate in rates.items()}, backbone.config.dtype, backbone.config.threads)
    assert rates["predict"] > 0.9 * rates["evaluation"]
