"""Compare: two or more runs beside each other, on one scale."""

import streamlit as st

from lab import figures, views
from lab.pages import shell
from lab.runs import Run

COLUMNS = 3  # matrices in a row


def pick() -> list[Run]:
    """The chosen runs."""
    found = shell.choices()
    if not found:
        return []
    shell.begin_with("runs", list(found), first_pair(found))
    keys = st.multiselect(
        "Runs",
        list(found),
        format_func=shell.run_name,
        key="runs",
        bind="query-params",
        placeholder="Choose two or more runs",
        help="Your own runs, newest first, then the recorded examples.",
    )
    return [found[key] for key in keys]


def first_pair(found: dict[str, Run]) -> list[str]:
    """Two runs to begin with: the newest complete one, and the newest complete one of another recipe."""
    whole = [key for key, run in found.items() if views.complete(run)] or list(found)
    others = [key for key in whole[1:] if found[key].config["recipe"] != found[whole[0]].config["recipe"]]
    return [whole[0], *(others or whole[1:])[:1]]


def cautions(runs: list[Run]) -> None:
    """What makes the comparison unequal, said before the numbers."""
    for field, what in (("stream", "streams"), ("scenario", "scenarios"), ("backbone", "backbones")):
        values = list(dict.fromkeys(run.result()[field] for run in runs))
        if len(values) > 1:
            st.warning(
                f"These runs differ in their {what}: {shell.plain(', '.join(values))}. Their scores mean different things."
            )
    partial = [run for run in runs if not views.complete(run)]
    for run in partial:
        learned = f"{len(run.matrix)} of {len(run.tasks)} tasks"
        st.warning(f"{shell.plain(run.id)} has learned {learned}: its numbers are those of that moment.")
    if any(run.result()["uses"] and run.result()["uses"].get("task_id") for run in runs):
        st.info("A run here is given the true task at test (see “Uses task identity”): it is a reference, not a competitor.")


def numbers(runs: list[Run]) -> None:
    st.subheader("Numbers", anchor=False)
    table = views.summary_table(runs)
    counts = {group.label: len(group.runs) for group in views.groups(runs)}
    table = table.rename(columns={name: f"{name} (n = {n})" for name, n in counts.items()})
    wide = {"measure": st.column_config.TextColumn("measure", width=170)}
    st.dataframe(
        table, column_config=wide, key="numbers", alt="Measures of the chosen runs, one column per recipe", height="content"
    )
    found = views.summary(runs)
    with st.container(horizontal=True):
        st.download_button(
            "Download as CSV",
            found.to_csv(index=False),
            "comparison.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
    shell.how_to_read(
        "A dash comes with its reason. Runs that differ only in seed and order share a column: mean ± half of the 95% interval "
        "over n runs" + (". With fewer than three runs a small difference may be luck." if max(counts.values()) < 3 else ".")
    )


def curves(runs: list[Run]) -> None:
    st.subheader("Average over the stream", anchor=False)
    text = "; ".join(f"{name} ends at {shell.number(run.result()['average_accuracy'])}" for name, run in named(runs))
    shell.chart(figures.average_curves(runs), "average", f"Average accuracy after each task: {text}")
    shell.how_to_read(
        "After each task, the mean score on all tasks learned so far. A falling line is forgetting, or harder tasks."
    )


def named(runs: list[Run]) -> list[tuple[str, Run]]:
    return list(zip(views.labels(runs), runs, strict=True))


def in_columns(runs: list[Run]):
    """Each run with its label, drawn inside a column of a grid."""
    for start in range(0, len(runs), COLUMNS):
        row = named(runs)[start : start + COLUMNS]
        for column, (name, run) in zip(st.columns(min(COLUMNS, len(runs)), gap="medium"), row, strict=False):
            with column:
                st.markdown(f"**{shell.plain(name)}**")
                yield name, run


def matrices(runs: list[Run]) -> None:
    st.subheader("Matrices", anchor=False)
    for name, run in in_columns(runs):
        alt = f"Score matrix of {name}, average accuracy {shell.number(run.result()['average_accuracy'])}"
        shell.chart(figures.accuracy_matrix(run), f"matrix_{run.dir}", alt)
    shell.how_to_read("Rows are moments, columns are tasks. The colour range is 0 to 1 in every matrix.")


def difference(runs: list[Run]) -> None:
    st.subheader("Difference", anchor=False)
    names = [name for name, _ in named(runs)]
    left, right = st.columns(2)
    first = left.selectbox("This run", names, index=len(names) - 1, key="minuend", bind="query-params")
    second = right.selectbox("minus this run", names, index=0, key="subtrahend", bind="query-params")
    one, other = (runs[names.index(name)] for name in (first, second))
    if one.tasks != other.tasks:
        st.info("These two learned different tasks, or in another order, so there is no cell-by-cell difference.")
        return
    shell.chart(figures.matrix_difference(one, other), "difference", f"Score matrix of {first} minus that of {second}")
    shell.how_to_read("Purple: the first run scores higher. Orange: the second does. White: no difference.")


def forgetting(runs: list[Run]) -> None:
    st.subheader("Each task over time", anchor=False)
    for name, run in in_columns(runs):
        shell.chart(figures.forgetting_curves(run), f"curves_{run.dir}", f"Score of each task of {name} after each learned task")
    shell.how_to_read("One line per task, from the moment it was learned. A line that falls is a task being forgotten.")


def settings(runs: list[Run]) -> None:
    st.subheader("Settings that differ", anchor=False)
    table = views.config_difference(runs)
    if table.empty:
        st.info("These runs have equal settings.")
    else:
        st.dataframe(table, key="settings", alt="Options in which the chosen runs differ", height="content")


def draw() -> None:
    shell.heading("Compare", "The same numbers and pictures for every run, on one scale.")
    shell.damaged_note()
    runs = pick()
    if not runs and not shell.choices():
        return shell.nothing_yet("There are no runs to compare yet.")
    if not runs:
        return st.info("Choose at least one run above.")
    cautions(runs)
    numbers(runs)
    if len(runs) == 1:
        st.info("Choose a second run to see differences.")
    curves(runs)
    matrices(runs)
    if len(runs) > 1:
        difference(runs)
    forgetting(runs)
    if len(runs) > 1:
        settings(runs)


draw()
