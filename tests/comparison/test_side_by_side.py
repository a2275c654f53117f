"""The comparison of runs as one object."""

import io

import pandas as pd
import pytest
from support.run_folders import FORGETS, write_run, write_transfer

import lab
from lab import views
from lab.comparison import tables
from lab.core.errors import LabError


@pytest.fixture
def pair(tmp_path):
    return [write_run(tmp_path, "a"), write_run(tmp_path, "s", "sequential", FORGETS)]


def test_it_shows_itself_and_gives_its_numbers(pair):
    compared = lab.compare(*pair)
    assert compared.numbers.equals(views.summary(pair)) and compared.differences().equals(views.differences(pair))
    assert "Average accuracy" in repr(compared) and "0.903" in repr(compared) and "0.903" in compared._repr_html_()
    assert compared._repr_html_().count("<table") == 1 and "<script" not in compared._repr_html_()
    by_id = lab.compare("a", "s", runs=pair[0].dir.parent)
    assert by_id.runs == pair


def test_files_hold_the_tables(pair, tmp_path):
    compared = lab.compare(*pair)
    for ending in ("csv", "parquet", "md", "tex"):
        compared.save(tmp_path / f"table.{ending}")
    read = pd.read_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(read, compared.numbers, check_dtype=False)
    in_csv = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, na_values={"value": "", "low": "", "high": ""})
    assert in_csv["value"].tolist() == pytest.approx(compared.numbers["value"].tolist(), nan_ok=True)
    assert (tmp_path / "table.md").read_text() == tables.markdown(pair) and (tmp_path / "table.tex").read_text() == tables.latex(
        pair
    )


def test_transfer_runs_have_a_table_of_their_own_and_share_the_numbers(pair, tmp_path):
    moved = write_transfer(tmp_path, "moved")
    compared = lab.compare(*pair, moved)
    assert [len(part) for part in compared.parts] == [2, 1] and compared._repr_html_().count("<table") == 2
    assert set(compared.numbers["label"]) >= set(views.summary([moved])["label"])
    assert pd.read_csv(io.StringIO(compared.text("csv")))["label"].nunique() == 3, "one table, one header"


def test_files_of_no_known_kind_and_unwritable_ones_are_refused(pair, tmp_path):
    compared = lab.compare(*pair)
    with pytest.raises(LabError, match=r"table\.xls .* one of \.parquet, \.csv, \.md, \.tex"):
        compared.save("table.xls")
    with pytest.raises(LabError, match="there is no folder"):
        compared.save(tmp_path / "none" / "table.csv")
    with pytest.raises(LabError, match="name at least one run"):
        lab.compare()
