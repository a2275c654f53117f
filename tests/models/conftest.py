"""Fixtures of the tests of models."""

import pytest
from support.generation import MODELS, host, tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of each model, as transformers saves it."""
    made = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, folder in made.items():
        host(name).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return made
