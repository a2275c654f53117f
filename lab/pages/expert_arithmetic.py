"""Arithmetic on LoRA experts, for the library: compose them, see what the result would do, try it, and keep it."""

import itertools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from lab import figures
from lab.adapters import library
from lab.adapters.library import SavedExpert
from lab.config.resolve import validated
from lab.data import loading
from lab.jobs import jobs
from lab.pages import actions, chart_card, code_snippets, layout, loaded_models, url_state
from lab.run_folder.run import Run

if TYPE_CHECKING:
    from lab.adapters.arithmetic import Adapter

PARTS = 8  # experts that are put together
TRIED = 32  # test examples of a task that a composed expert is tried on
TAKES = {  # how many experts an operation takes, at least and at most, and what it makes of them
    "add": (2, PARTS, "their weighted sum, or another merge"),
    "scaled": (1, 1, "the expert with so many times its effect"),
    "negate": (1, 1, "what undoes the expert"),
    "analogy": (3, 3, "the first one carried over: first + (second − third)"),
}
HOW = {
    "cat": "Exact: the factors stand beside each other, so the rank is the sum of the ranks.",
    "svd": "The nearest update of the first expert's rank, by singular value decomposition.",
    "linear": "Both factors are summed, which brings products of different experts in.",
    "ties": "As linear, after small numbers were cut and signs elected (Yadav et al. 2023).",
    "parameters": "Weighted means of the factors, the weights normalised to sum one.",
}


def siblings(found: dict[str, SavedExpert]) -> list[str]:
    """The experts of the newest run that has two; else all of them."""
    by_run: dict[str, list[str]] = {}
    for key in found:
        by_run.setdefault(key.partition("/")[0], []).append(key)
    return next((keys for keys in by_run.values() if len(keys) > 1), list(found))


def put_together(found: dict[str, SavedExpert]) -> None:
    """Compose LoRA experts, see what the result would do, and keep it. Only this imports torch, once it is asked for."""
    st.subheader("Put experts together", anchor=False)
    do = st.segmented_control("Operation", list(TAKES), key="lib_do", bind="query-params")
    if do is None or not found:
        return st.caption("New experts by arithmetic on saved ones: nothing is trained, and nothing that is there changes.")
    few, many, about = TAKES[do]
    url_state.restore("lib_parts", list(found), siblings(found)[:few])
    keys = st.multiselect("Experts, in this order", list(found), key="lib_parts", bind="query-params", max_selections=PARTS)
    if not few <= len(keys) <= many:
        return st.info(f"{do} takes {few}{' or more' if many > few else ''}: {about}. Now there are {len(keys)}.")
    options = chosen_options(do, keys)
    from lab.adapters import arithmetic

    parts = [arithmetic.read(found[key].folder, key) for key in keys]
    made = arithmetic.add(parts, **options) if do == "add" else getattr(arithmetic, do)(*parts, **options)
    preview(made, do, [found[key] for key in keys], options)
    with layout.section():
        effect(made, parts, [found[key] for key in keys], f"{do} {options}")
    keep(made, f"lab compose {shlex.join([do, *keys])} {' '.join(flags(options))}".strip(), parts)


def chosen_options(do: str, keys: list[str]) -> dict[str, Any]:
    """What can be said about an operation besides the experts."""
    number = {"min_value": -10.0, "max_value": 10.0, "step": 0.1, "bind": "query-params", "width": 220}
    if do == "scaled":
        return {"by": st.number_input("Times its effect", value=0.5, key="lib_by", **number)}
    if do != "add":
        return {}
    how = st.segmented_control("Joined by", list(HOW), default="cat", key="lib_how", bind="query-params", required=True)
    st.caption(HOW[how])
    with st.container(horizontal=True):
        named = [(f"Weight of {layout.plain(key)}", f"lib_weight_{place}") for place, key in enumerate(keys, 1)]
        weights = [st.number_input(label, value=1.0, key=key, **number) for label, key in named]
    options: dict[str, Any] = {"weights": weights, "how": how}
    if how == "ties":
        about = "Part of the numbers that is kept of each expert."
        options["density"] = st.slider("Density", 0.05, 1.0, 0.2, 0.05, key="lib_density", bind="query-params", help=about)
    return options


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the command line has them."""
    said = {name: ",".join(f"{one:g}" for one in value) if isinstance(value, list) else value for name, value in options.items()}
    return [f"--{name} {value}" for name, value in said.items()]


def preview(made: "Adapter", do: str, chosen: list[SavedExpert], options: dict[str, Any]) -> None:
    """What the composed expert would do: its size, and how much of each expert is in it."""
    layers = {
        layer: {part: made.tensors[f"{layer}.{part}"].double().numpy() for part in ("lora_A", "lora_B")} for layer in made.layers
    }
    table = library.alignment(layers, chosen)
    said = "; ".join(f"{key} {value:+.2f}" for key, value in table.iloc[-1].items())
    left, right = st.columns([1, 3], gap="large")
    left.metric("Rank", made.config["r"])
    left.metric("Norm", f"{library.norm(layers, made.scale):.2f}", help="Frobenius norm of the whole update.")
    left.metric("Parameters", f"{sum(tensor.numel() for tensor in made.tensors.values()):,}")
    with right:
        st.markdown("**How much of each expert is in it**  \n" + layout.plain(said))
        parts = "".join(f"    SavedExpert(Path({str(expert.folder)!r})),\n" for expert in chosen)
        given = ", ".join(["parts" if do == "add" else "*parts", *(f"{name}={value!r}" for name, value in options.items())])
        chart_card.card(
            figures.alignment,
            table,
            key="lib_alignment",
            alt=f"Cosine with each expert over all layers: {said}",
            table=lambda given: given,
            read="Cosine of the updates, by layer. 1: does there what this expert does. −1: the opposite. 0: something else.",
            python="\n".join(
                [
                    "from pathlib import Path",
                    "",
                    "import lab",
                    "from lab.adapters import arithmetic",
                    "from lab.adapters.library import SavedExpert, alignment",
                    "",
                    f"chosen = [\n{parts}]",
                    "parts = [arithmetic.read(expert.folder) for expert in chosen]",
                    f"made = arithmetic.{do}({given})",
                    "factors = ('lora_A', 'lora_B')",
                    "layers = {name: {f: made.tensors[f'{name}.{f}'].double().numpy() for f in factors} for name in made.layers}",
                    "lab.figures.alignment(alignment(layers, chosen))",
                ]
            ),
        )


def effect(made: "Adapter", parts: "list[Adapter]", chosen: list[SavedExpert], how: str) -> None:
    """What the composed expert answers right beside its parts; the model is loaded and asked on a click only."""
    st.markdown("**What it gets right**")
    homes = [expert.run for expert in chosen if expert.run and expert.run.kept() and expert.run.protocol.continual]
    if not homes:
        return st.caption("None of these experts is of a run on a stream that kept its classifier: nothing can answer with it.")
    run, after = homes[0], homes[0].kept()[-1]
    if jobs.read_only():
        return st.caption("This lab is read-only: nothing is computed here.")
    known = run.tasks[: after + 1]
    first = [expert.name for expert in chosen if expert.name in known] or known[:1]
    url_state.set_default("lib_try", known, list(dict.fromkeys(first)))
    tasks = st.multiselect("Tasks to try it on", known, key="lib_try", bind="query-params")
    st.caption(
        f"{TRIED} test examples of each task are answered with the classifier of {layout.plain(run.id)} after its last task, "
        "while the composed expert alone acts, and while each of its parts does."
    )
    ticket = (str(run.dir), after, how, tuple(part.sha256 for part in parts), tuple(tasks))
    if st.button("Try it", icon=":material/play_arrow:", key="lib_measure", disabled=not tasks):
        st.session_state["lib_tried"] = ticket
    if st.session_state.get("lib_tried") == ticket and tasks:
        table = measured(
            run, after, tasks, {"composed": (made, ticket[2:4])} | {part.name: (part, part.sha256) for part in parts}
        )
        st.dataframe(
            table,
            key="lib_effect",
            alt=f"Part of {TRIED} test examples answered right, per task and expert",
            column_config={name: st.column_config.NumberColumn(name, format="%.2f") for name in table},
        )


def measured(run: Run, after: int, tasks: list[str], who: "dict[str, tuple[Adapter, Any]]") -> pd.DataFrame:
    """Accuracy per task and expert; each is given with what it is made of, under which its numbers are kept."""
    table = pd.DataFrame(index=pd.Index(tasks, name="task"), columns=list(who), dtype=float)
    progress = st.progress(0.0, "Loading the model …")
    for number, (task, name) in enumerate(itertools.product(tasks, who)):
        adapter, made_of = who[name]
        table.at[task, name] = answered(run.dir, after, run.tasks.index(task), made_of, adapter)
        progress.progress((number + 1) / table.size, f"{layout.plain(name)} on {layout.plain(task)}")
    progress.empty()
    return table


@st.cache_data(max_entries=500, show_spinner=False)
def answered(folder: Path, after: int, task: int, made_of: Any, _adapter: "Adapter") -> float:
    """`Model.accuracy` on the first test examples of a task."""
    run = Run(folder)
    model, turn = loaded_models.loaded(run, after)
    stream = validated(run.config).stream
    limits = stream.limits | {"labels_as_text": stream.labels_as_text}
    (loaded,) = loading.load_tasks(stream.name, stream.sources, [run.tasks[task]], run.config["seed"], **limits)
    with turn:
        return model.accuracy(_adapter, task, loaded.test[:TRIED])


def keep(made: "Adapter", words: str, parts: "list[Adapter]") -> None:
    """Put it into the library under a name; from there it can be taken along like any other."""
    locked = jobs.read_only()
    with st.form("lib_keep", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name", max_chars=80, placeholder="my-mixture", key="lib_name", disabled=locked, width=320)
        if st.form_submit_button("Keep in the library", icon=":material/save:", disabled=locked):
            if name:
                actions.attempt(lambda: compose_write(made, name, words, parts))
            else:
                st.warning("Write a name first.")
    st.code(f"{words} --out FOLDER{code_snippets.runs_option()}", language="bash")


def compose_write(made: "Adapter", name: str, words: str, parts: "list[Adapter]") -> None:
    from lab.adapters import arithmetic

    arithmetic.write(made, library.place(name), words, parts)
