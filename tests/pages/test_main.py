"""Every page with no run, one, many, damaged ones; pages that read load no torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.damage import OUTSIDE, break_in_every_way, break_inside
from support.pages import MAIN, PAGES, codes, open_page, texts
from support.run_folders import FORGETS, write_run, write_transfer


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A folder of 200 runs, of which the last two have events and routing."""
    folder = tmp_path_factory.mktemp("crowd")
    plain = write_run(folder, "run-000", events=False, routed=False)
    for seed in range(1, 198):
        copy = Path(shutil.copytree(plain.dir, folder / f"run-{seed:03}")) / "config.yaml"
        copy.write_text(copy.read_text().replace("seed: 0", f"seed: {seed}"))
    for seed in (198, 199):
        write_run(folder, f"run-{seed:03}", seed=seed)
    return folder


EVERYWHERE, OF_A_RUN = ("none", "one", "many", "damaged"), ("unrouted", "unrecorded", "begun", "transfer")
SITUATIONS = [(case, page) for case in EVERYWHERE for page in PAGES]
SITUATIONS += [(case, page) for case in OF_A_RUN for page in PAGES if page not in ("train", "learn")]  # which show no run


@pytest.mark.parametrize(("case", "page"), SITUATIONS)
def test_every_page_in_every_situation(runs, recorded, crowd, page, case, monkeypatch):
    """Nothing breaks, and every chart has a text equivalent and its code."""
    if case == "many":
        monkeypatch.setenv("LAB_RUNS", str(crowd))
    elif case == "damaged":
        for name in ("run.json", "config.yaml", "matrix.json", "notes.json"):
            (write_run(runs, f"bad-{name[:3]}").dir / name).write_text("{")
        (write_run(runs, "bad-routing").dir / "routing" / "after_2.safetensors").write_bytes(b"xx")
        break_in_every_way(runs, write_run(runs, "whole", seed=7).dir)
        break_inside(runs)
    elif case == "transfer":
        write_transfer(runs, "a")
    elif case == "begun":
        write_run(runs, "a", matrix=[], status="queued", events=False)
    elif case == "unrouted":
        write_run(runs, "a", "sequential", FORGETS, routed=False)
    elif case != "none":
        write_run(runs, "a", routed=case != "unrecorded")
    else:
        shutil.rmtree(recorded)
    app = open_page(page)
    assert len(app.title) == 1 and OUTSIDE not in texts(app)
    charts = app.get("plotly_chart")
    assert all(one.proto.alt for one in charts) and codes(app) >= len(charts)
    if case == "damaged" and page == "compare":
        assert "config.yaml cannot be read" in texts(app) and "notes.json cannot be read" in texts(app)
        assert "odd-log" in app.multiselect(key="runs").value  # the others are shown all the same
    if page != "train":  # which loads the plug-ins
        assert not app.error or case == "damaged"


@pytest.mark.parametrize("link", [{"o": ["a=1"] * 300}, {"o": "x" * 9000}, {"y" * 9000: "1"}])
def test_a_link_of_any_length_costs_nothing(runs, link):
    app = open_page("train", **link)
    assert "The link was left aside" in texts(app) and "Ignored" not in texts(app)
    assert set(app.query_params) <= {"recipe", "o"} and len(app.query_params.get("o", [])) < 10


def test_a_link_with_aliases_costs_nothing(runs):
    """Nine lists of nine aliases of the list before: a billion values in a kilobyte."""
    bomb = "a: &a [x]\n" + "".join(
        f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    app = open_page("train", o=f"stream.tasks={bomb}")
    assert "anchors and aliases" in texts(app)


@pytest.mark.long
def test_pages_that_read_load_no_torch(runs):
    write_run(runs, "a")
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
from lab.pages.gate import Gate
Gate.stands = True
app = AppTest.from_file({str(MAIN)!r}, default_timeout=60).run()
for page in ("jobs", "compare", "routing", "playground", "library", "about"):
    app.switch_page(page + ".py").run()
    assert not app.exception and app.title
assert "torch" not in sys.modules, "torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=MAIN.parents[2])
    assert done.returncode == 0, done.stderr[-600:]
