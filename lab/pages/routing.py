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


def most_to_see(runs: dict[str, Run]) -> str:
    """The key of the newest run that was routed, rather no example or replay whose model cannot be asked; else of the newest."""

    def routed(run: Run) -> bool:
        return (run.info.get("routing") or {}).get("own_expert_share") is not None

    def trained(key: str, run: Run) -> bool:
        return key[0] != run_picker.RECORDED and not run.info.get("replay")

    wishes = (lambda key, run: routed(run) and (trained(key, run) or bool(run.kept())), lambda _, run: routed(run))
    return next((key for wish in wishes for key, run in runs.items() if wish(key, run)), next(iter(runs)))


def draw() -> None:
    layout.heading("Routing", "Which expert is chosen: by task, by layer and routing head, and in one decision step by step.")
    runs = run_picker.choices()
    if not runs:
        run_picker.no_runs("There are no runs to show yet.")
        return
    with run_picker.bar():
        run = run_picker.pick_run("Run", "rt_run", runs, most_to_see(runs))
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
