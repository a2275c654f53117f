"""Every page with no run, one, many, damaged ones; pages that read load no torch."""

import shutil
import subprocess
import sys

import pytest
from support.pages import MAIN, PAGES, codes, open_page, texts
from support.run_folders import FORGETS, write_run, write_transfer


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A folder of 200 runs."""
    folder = tmp_path_factory.mktemp("crowd")
    for seed in range(200):
        write_run(folder, f"run-{seed:03}", seed=seed, events=seed > 197, routed=seed > 197)
    return folder


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("case", ["none", "one", "many", "damaged", "unrouted", "unrecorded", "begun", "transfer"])
def test_every_page_in_every_situation(runs, recorded, crowd, page, case, monkeypatch):
    """Nothing breaks, and every chart has a text equivalent and its code."""
    if case == "many":
        monkeypatch.setenv("LAB_RUNS", str(crowd))
    elif case == "damaged":
        for name in ("run.json", "config.yaml", "matrix.json", "notes.json"):
            (write_run(runs, f"bad-{name[:3]}").dir / name).write_text("{")
        (write_run(runs, "bad-routing").dir / "routing" / "after_2.safetensors").write_bytes(b"xx")
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
    assert len(app.title) == 1
    charts = app.get("plotly_chart")
    assert all(one.proto.alt for one in charts) and codes(app) >= len(charts)
    if case == "damaged" and page == "compare":
        assert "config.yaml cannot be read" in texts(app) and "notes.json cannot be read" in texts(app)
        assert "bad-routing" in app.multiselect(key="runs").value  # the others are shown all the same
    if page != "train":  # which loads the plug-ins
        assert not app.error or case == "damaged"


def test_pages_that_read_load_no_torch(runs):
    write_run(runs, "a")
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({str(MAIN)!r}, default_timeout=60).run()
for page in ("jobs", "compare", "routing", "playground", "library", "about"):
    app.switch_page(page + ".py").run()
    assert not app.exception and app.title
assert "torch" not in sys.modules, "torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=MAIN.parents[2])
    assert done.returncode == 0, done.stderr[-600:]
