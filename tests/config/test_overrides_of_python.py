"""Options given in Python as a mapping."""

import pytest

import lab
from lab.config.resolve import changes_of
from lab.core.errors import LabError


def test_a_mapping_says_the_same_as_texts():
    values = {"train.lr": 1e-3, "stream.max_train": None, "stream.tasks": ["a", "b"], "router": "uniform", "train.epochs": 2}
    texts = ["train.lr=0.001", "stream.max_train=null", "stream.tasks=[a, b]", "router=uniform", "train.epochs=2"]
    assert changes_of(values) == changes_of(texts) == changes_of([values])
    assert lab.configure("l2r", values) == lab.configure("l2r", texts)


def test_values_are_not_read_as_text():
    with pytest.raises(LabError, match=r"train\.lr = '0\.001': .*not converted"):
        lab.configure("l2r", {"train.lr": "0.001"})
    with pytest.raises(LabError, match="unknown option of train 'lrr': did you mean 'lr'"):
        lab.configure("l2r", {"train.lrr": 1})
    with pytest.raises(LabError, match="is not an option: write its dotted name"):
        lab.configure("l2r", {1: 2})
    with pytest.raises(LabError, match=r"this configuration is complete, train\.lr would be ignored"):
        lab.run(lab.configure("l2r"), {"train.lr": 1})
