"""Evaluation of one task: the result is returned, progress is told, and batches may be interrupted."""

import numpy as np
import pytest
from support import toy

from lab.data.batching import by_length
from lab.training.evaluation import Evaluation, Evaluator, evaluate


@pytest.fixture(scope="module")
def made():
    return toy.trained("l2r")


def test_it_returns_its_result_and_tells_its_progress(made):
    told = []
    result = evaluate(made.learner, made.rows[1, "test"], 2, 8, progress=told.append)
    assert isinstance(result, Evaluation) and told == [8, 16, 20]
    assert result.score == made.scores.matrix[1][1] and len(result.predictions.label) == 20


def test_an_evaluator_is_the_same_in_whatever_order_its_batches_come(made):
    rows = made.rows[0, "test"]
    evaluator = Evaluator(made.learner, rows, 2)
    for chunk in reversed(list(by_length(rows, 8))):
        evaluator.update(chunk)
    whole = evaluate(made.learner, rows, 2, 8)
    result = evaluator.result()
    assert evaluator.done == len(rows) and result.score == whole.score
    np.testing.assert_array_equal(result.predictions.predicted, whole.predictions.predicted)
    np.testing.assert_allclose(result.routing.weight_sum, whole.routing.weight_sum)


def test_a_session_answers_between_two_batches(made, monkeypatch):
    """An interrupt is seen after each batch: the loop gets a progress event from every one."""
    monkeypatch.setattr("lab.training.trainer.EVALUATION_BATCH", 8)
    happenings = made.score(1, 0)
    assert [(event.done, event.total) for event in (next(happenings), next(happenings))] == [(8, 20), (16, 20)]
    happenings.close()
