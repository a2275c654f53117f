"""Routing: which expert is chosen, for which task, in which layer, in one decision, and what if it were another.

One focus (task, expert, layer, head) is outlined in all charts. It is set by clicks on cells or with select boxes, which stand in
the link.
"""

import streamlit as st

from lab.pages import layout, navigation, run_picker
from lab.pages.routing_views import decision, focus, heads, overview, pictures, what_if
from lab.run_folder.run import Run

ONE, HEADS, WHAT_IF, WHOLE = "One decision", "Layers and heads", "What if", "All tasks"


def nothing_routed(run: Run) -> None:
    """Say why a run has no routing to show, and link to its scores."""
    recipe = layout.plain(run.config["recipe"])
    if run.recorded():
        st.info(
            f"This run of {recipe} has one expert for all tasks: it always gets the whole weight, so there is no routing to "
            "show. The scores show how the tasks affect each other."
        )
    else:
        st.info(
            f"No routing is recorded for this run of {recipe}. Either the method has nothing to choose (one expert for all "
            "tasks), or no task is learned yet. Runs with a router record it after every task."
        )
    link = {"runs": run_picker.link_name(run)}
    navigation.link("compare", "See its scores", ":material/compare_arrows:", link)


def draw() -> None:
    layout.heading("Routing", "Which expert is chosen: by task, by layer and routing head, and in one decision step by step.")
    runs = run_picker.choices()
    if not runs:
        run_picker.no_runs("There are no runs to show yet.")
        return
    routed = [key for key, run in runs.items() if (run.info.get("routing") or {}).get("own_expert_share") is not None]
    with run_picker.bar():
        played = [key for key in routed if key[0] == run_picker.RECORDED or runs[key].info.get("replay")]
        routed.sort(key=lambda key: key in played and not runs[key].kept())  # rather those whose model can be asked
        run = run_picker.pick_run("Run", "rt_run", runs, (routed or list(runs))[0])
        shown = run.recorded()
        if not shown or (len(shown) > 1 and len(run.routing().experts) == 1):
            nothing = True
        else:
            nothing = False
            about = "Weights on the test examples of all tasks learned by then, as they were at that moment."
            after = run_picker.pick_moment(run, shown, "rt_after", about)
    if nothing:
        nothing_routed(run)
        return
    overview.warnings(run, after)
    answer = st.container()
    at, how = focus.choose(run, after), focus.settings(run, after)
    with answer:
        st.markdown(focus.sentence(run, after, at))
        overview.draw(run, after, at, how)
    view = st.segmented_control(
        "View", [ONE, HEADS, WHAT_IF, WHOLE], default=ONE, key="rt_view", bind="query-params", required=True
    )
    with layout.section():
        if view == HEADS:
            heads.draw(run, after, at, how)
        elif view == WHAT_IF:
            what_if.draw(run, after, at)
        elif view == WHOLE:
            pictures.draw(run, after)
        else:
            decision.draw(run, after, at)


draw()
