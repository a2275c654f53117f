"""Pickers of runs: runs of a link that are not there, filters by star, tag and recipe."""

import shutil

import pytest
from support.pages import open_page, texts
from support.run_folders import FORGETS, write_run

import lab
from lab.jobs import jobs


@pytest.mark.parametrize("link", ["doesnotexist", "hidden"])
def test_a_page_says_which_runs_of_a_link_are_not_there(runs, link):
    """What is there stays, and the remark goes with another choice; after a deletion there is none."""
    write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS), jobs.annotate(write_run(runs, "hidden"), archived=True)
    app = open_page("compare", runs=[link, "a"])
    assert f"Not available: {link}." in texts(app) and app.multiselect(key="runs").value == ["a"]
    app.segmented_control(key="cmp_view").set_value("Each task").run()
    assert f"Not available: {link}." in texts(app)
    app.multiselect(key="runs").set_value(["a", "b"]).run()
    assert "Not available" not in texts(app) and "Not available" not in texts(open_page("compare", runs=["a", "b"]))
    app = open_page("compare", runs=[link])
    assert f"Not available: {link}." in texts(app) and app.multiselect(key="runs").value == ["b", "a"]
    app = open_page("routing", rt_run=link)
    assert f"Not available: {link}." in texts(app) and app.selectbox(key="rt_run").value == "b"
    app.selectbox(key="rt_run").set_value("a").run()
    assert "Not available" not in texts(app)
    shutil.rmtree(runs / "a")
    assert app.run().selectbox(key="rt_run").value == "b" and not app.exception


def test_a_picker_is_narrowed_by_star_tags_and_recipes(runs):
    """Offered where a run is marked; marks of one kind add up, kinds narrow each other, and the link keeps them."""
    for name, recipe in (("a", "l2r"), ("b", "uniform"), ("c", "uniform"), ("d", "replay")):
        write_run(runs, name, recipe)
    assert not [one for one in open_page("routing").multiselect if one.key == "rt_run_only"]
    jobs.annotate(lab.Run.open("b"), tags=["best", "odd"], starred=True)
    jobs.annotate(lab.Run.open("c"), tags=["odd"])
    app = open_page("routing")
    assert app.multiselect(key="rt_run_only").options == [
        "recipe l2r",
        "recipe replay",
        "recipe uniform",
        "starred",
        "stream builtin",
        "tag best",
        "tag odd",
    ]
    offered = {}
    odd, best, star = "tag odd", "tag best", "starred"
    for marks in ([odd], [star, odd], ["recipe l2r", "recipe replay"], [odd, best, "recipe uniform"], [star, "recipe l2r"], []):
        app.multiselect(key="rt_run_only").set_value(marks).run()
        offered[tuple(marks)] = sorted(app.selectbox(key="rt_run").options)
        assert app.selectbox(key="rt_run").value in offered[tuple(marks)] and not app.exception
    assert [*offered.values()] == [["b", "c"], ["b"], ["a", "d"], ["b", "c"], ["a", "b", "c", "d"], ["a", "b", "c", "d"]]
    there = open_page("routing", rt_run_only="starred")
    assert there.selectbox(key="rt_run").options == ["b"] and there.selectbox(key="rt_run").value == "b"


def test_pickers_show_names_and_links_hold_ids(runs, recorded):
    """A name with HTML is text; equal names are told apart by the id; a new name breaks no link, nor does an old form of link."""
    named, other = write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS)
    jobs.annotate(named, name="<b>best</b>")
    app = open_page("routing", rt_run="a")
    box = app.selectbox(key="rt_run")
    assert box.value == "a" and box.options[:2] == ["b", "<b>best</b>"] and app.query_params["rt_run"] == "a"
    box.set_value("b").run()
    assert app.query_params["rt_run"] == "b"
    app.query_params["rt_run"] = "a"
    assert app.run().selectbox(key="rt_run").value == "a"
    jobs.annotate(named, name="b")
    app = open_page("compare", runs=["a", "builtin-l2r (recorded example)"])
    assert app.multiselect(key="runs").options[:2] == ["b, b", "b, a"] and "Not available" not in texts(app)
    assert app.query_params["runs"] == ["a", "~builtin-l2r"] == app.multiselect(key="runs").value
    jobs.annotate(other, name="plain")
    app = open_page("compare", runs=["b", "a"])
    assert app.multiselect(key="runs").options[:2] == ["plain", "b"] and not app.exception
