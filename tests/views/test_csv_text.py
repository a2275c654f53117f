"""CSV that no spreadsheet runs: read back by the csv module."""

import csv
import io

import pandas as pd
import pytest

from lab.views import to_csv


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_is_no_formula(start):
    text, inert = f"{start}1+1", f"'{start}1+1".replace("\r", "\n")
    table = pd.DataFrame({text: [text, "plain"], "score": [-0.25, 1e-17]}, pd.Index([text, "a"], name=text))
    names, first, second = csv.reader(io.StringIO(to_csv(table), newline=""))
    assert names == [inert, inert, "score"] and first == [inert, inert, "-0.25"]
    assert second == ["a", "plain", "1e-17"], "numbers stay numbers"
    assert to_csv(table["score"]).lstrip('"').startswith("'")


def test_other_tables_are_as_pandas_writes_them():
    table = pd.DataFrame({"a": [1, 2], "b": [0.1, float("nan")], "c": ["x, y", None], "d": [True, False]})
    assert to_csv(table) == table.to_csv() and to_csv(table, index=False) == table.to_csv(index=False)
    assert to_csv(table["b"]) == table["b"].to_csv()
