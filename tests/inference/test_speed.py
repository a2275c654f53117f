"""Answers per second on 10,000 short texts, beside the run's own evaluation and a plain pipeline of the backbone.

    pytest -n 0 -s -m slow tests/inference/test_speed.py

All three pass the same texts in batches of 64 in one process. They take turns every 1,000 texts, so that what else the machine
does meets all alike; ratios are medians over the turns.
"""

import os
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

TEXTS, TURN, BATCH = 10_000, 1_000, 64


@pytest.mark.slow
@pytest.mark.timeout(3000)
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

    def evaluated(some: list[str]) -> None:
        rows = [row._replace(label=UNLABELLED) for row in backbone.encode([toy.Example(text, 0) for text in some], 0, "asked")]
        evaluate(model.learner, rows, len(tasks), BATCH)
        if backbone.lower:
            backbone.lower.states_of.clear()  # which a later evaluation of the same rows would find

    ways = {"predict": lambda some: model.predict(some, batch_size=BATCH), "evaluation": evaluated, "pipeline": pipeline}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for first in range(0, TEXTS, TURN):
        for name, ask in ways.items():
            began = time.perf_counter()
            ask(texts[first : first + TURN])
            times[name].append(time.perf_counter() - began)
    ratios = {name: statistics.median(np.array(own) / times["predict"]) for name, own in times.items()}
    print({name: f"{TEXTS / sum(own):,.0f} texts/s" for name, own in times.items()}, "in the time of predict:", ratios)
    print(backbone.config.dtype, backbone.config.threads, "thread(s), load", os.getloadavg())
    assert ratios["evaluation"] > 0.9
