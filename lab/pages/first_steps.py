"""Now do it yourself, on Start: a run of six tasks that a visitor watches, and a text for the model that comes with the lab."""

import pandas as pd
import streamlit as st

from lab import views
from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import actions, curves, layout, navigation, nearest, run_picker
from lab.pages.play import answer as answers_drawn
from lab.pages.play.sides import Question, Side, ask
from lab.run_folder.run import Run, root

PERIOD = 1.0  # seconds between two looks at the run
STARTED = "run of Start"  # key of the session
# Six tasks in about twenty seconds on two cores.
QUICK = {"stream.max_train": 40, "stream.max_validation": 10, "stream.max_test": 20, "train.epochs": 3}
EXAMPLES = ["The parcel is late again and nobody answers.", "Who wrote Hamlet?", "Markets fall as the bank raises its rate."]


def draw(routed: Run) -> None:
    """A live run on the left, a text on the right."""
    st.header("Now do it yourself", anchor=False)
    left, right = st.columns(2, gap="large")
    with left, st.container(border=True, height="stretch"):
        st.subheader("Watch a model forget", anchor=False)
        with layout.section():
            live_run()
    with right, st.container(border=True, height="stretch"):
        st.subheader("Ask the routed model", anchor=False)
        with layout.section():
            ask_model(routed)


def live_run() -> None:
    """The button that trains six small tasks in sequence, and the run that it started."""
    actions.show_error()
    run = started()
    if run is None or run.status not in jobs.ACTIVE:
        st.caption("Trains one expert on six tasks in sequence, with few examples of each. It takes about twenty seconds.")
        reason = jobs.why_read_only()
        if reason:
            st.info(f"{layout.plain(reason)} The lesson and the replay show the same.", icon=":material/lock:")
        elif jobs.is_full():
            st.info("Another run is training. Its page shows it live.", icon=":material/hourglass_top:")
            navigation.link("jobs", "Go to Jobs", ":material/monitoring:")
        elif st.button(
            "Train six tasks" if run is None else "Train them again", icon=":material/model_training:", key="start_run"
        ):
            actions.attempt(begin)
    if run is not None:
        watch(run)


def started() -> Run | None:
    """The run that this visitor started here, unless it was deleted."""
    run = Run(root() / st.session_state[STARTED]) if STARTED in st.session_state else None
    return run if run and run.dir.is_dir() and not views.problem(run) else None


def begin() -> None:
    overrides = [f"{name}={value}" for name, value in QUICK.items()]
    st.session_state[STARTED] = jobs.start(configure("sequential", overrides).to_dict()).id


def watch(run: Run) -> None:
    """Progress and curves of the run; drawn again alone while it trains."""
    active = run.status in jobs.ACTIVE

    @st.fragment(run_every=PERIOD if active else None)
    def card() -> None:
        if active and run.status not in jobs.ACTIVE:
            st.rerun()
        if active:
            progress = views.progress(run)
            st.progress(min(max(progress.share, 0.0), 1.0), text=layout.plain(progress.text()))
        if len(run.matrix):
            curves.forgetting(run, "own_curves")
        if not active:
            lost = run.metrics()["forgetting"] if run.status == "finished" else None
            st.markdown(f"This run {run.status}." if lost is None else f"It has lost **{lost:.2f}** per old task.")
            with st.container(horizontal=True):
                navigation.link("jobs", "Look at the run", ":material/monitoring:", {"job": run.id})
                navigation.link("learn", "Why does it forget?", ":material/school:")

    card()


def ask_model(routed: Run) -> None:
    """A text, the answer of the recorded run's own model, and which experts gave it."""
    moments = routed.kept()
    if not moments:
        st.caption("This recorded run has no weights here, so its model cannot be asked. Train one, and ask that.")
        navigation.link("train", "Go to Train", ":material/model_training:", {"recipe": "l2r"})
        return
    st.caption(f"It has learned {len(routed.tasks)} tasks, and is not told which one a text belongs to.")
    text = st.text_input("Text", key="start_text", placeholder="Type a text and press Enter", persist_state="session")
    with st.container(horizontal=True, gap="small"):
        for number, example in enumerate(EXAMPLES):
            st.button(example, key=f"start_example_{number}", type="tertiary", on_click=take, args=[example])
    if not text:
        return
    question = Question(text)
    if question.unusable:
        st.info(question.unusable, icon=":material/edit:")
        return
    try:
        answer = ask(Side("the original", routed, moments[-1]), question, lambda _: None)
    except (LabError, OSError, RuntimeError) as error:
        st.warning(layout.plain(str(error).split("\n")[0]), title="The model cannot answer")
        return
    st.markdown(f"#### {answers_drawn.sentence({'the original': answer}, '')}")
    shares: pd.Series = answer.by_expert()
    listed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    st.bar_chart(
        shares.reset_index(),
        x="expert",
        y="share",
        horizontal=True,
        sort="-share",
        height=210,
        x_label="",
        y_label="share of the routing weight",
        alt=f"Share of each expert in the answer: {listed}",
    )
    near = nearest.texts(routed, moments[-1], answer)
    if near is not None:
        st.caption(f"Why: {nearest.in_words(answer, near)} The nearest: “{layout.plain(near.iloc[0]['text'])}”")
    st.session_state["pg_text"] = text
    navigation.link("playground", "Change its routing", ":material/experiment:", {"pg_run": run_picker.link_name(routed)})


def take(example: str) -> None:
    st.session_state["start_text"] = example
