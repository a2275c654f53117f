"""The table of what works: its cells are what happens. A few are run here, all of them with `-m architectures`."""

import re

import pytest
from support import architectures, what_works

SLICE = {  # one column each, where architectures differ in what that column needs
    "deberta-v3": "lora",
    "albert": "bottleneck",
    "opt": "words",
    "mpnet": "ia3",
    "xlm-roberta": "resume",
    "t5": "free text",
    "llama": "prompt",
    "xlnet": "lora",
    "gpt2": "merge",
}


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, what_works.Cell]]:
    return what_works.read(what_works.PAGE.read_text())


def test_the_page_has_every_architecture_and_nothing_that_fails(table):
    assert list(table) == sorted(table, key=[*architectures.ARCHITECTURES].index) and set(table) == {*architectures.ARCHITECTURES}
    assert not [(name, column) for name, cells in table.items() for column, cell in cells.items() if cell.result == "fails"]
    assert all(cell.reason for cells in table.values() for cell in cells.values() if cell.result == "refused")
    assert all(list(cells) == list(what_works.COLUMNS) for cells in table.values())
    works = [name for name, cells in table.items() if all(cells[column].result == "works" for column in ("lora", "resume"))]
    assert len(works) >= 24 and {"deberta-v3", "albert", "opt", "mpnet", "xlm-roberta", "t5", "bart"} <= {*works}


def test_a_page_is_read_as_it_was_written(table):
    assert what_works.read(what_works.page(table)) == table
    assert re.search(r"^PYTHONPATH=\S+ python -m support.what_works$", what_works.page(table), re.MULTILINE)


@pytest.mark.parametrize(("name", "column"), SLICE.items())
def test_a_cell_is_what_happens(name, column, table, tmp_path):
    assert what_works.cell(name, column, tmp_path) == table[name][column]


@pytest.mark.architectures
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_a_row_is_what_happens(name, table):
    assert what_works.row(name) == table[name]
