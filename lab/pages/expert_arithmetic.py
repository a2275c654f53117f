"""Arithmetic on LoRA experts, for the page Library: combine them, preview and test the result, and keep it."""

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

PARTS = 8  # experts that are combined, at most
TESTED = 32  # test examples of a task that a combined expert is tested on
TAKES = {  # how many experts an operation takes, at least and at most, and what it makes of them
    "add": (2, PARTS, "their weighted sum, or another merge"),
    "scaled": (1, 1, "the expert with its effect multiplied by a number"),
    "negate": (1, 1, "an expert that undoes the effect of the given one"),
    "analogy": (3, 3, "an analogy: first + (second − third)"),
}
HOW = {
    "cat": "Exact: the factors are concatenated, so the rank is the sum of the ranks.",
    "svd": "The nearest update of the first expert's rank, by singular value decomposition.",
    "linear": "Both factors are summed, which adds products of different experts.",
    "ties": "As linear, after small numbers are set to zero and signs elected (Yadav et al. 2023).",
    "parameters": "Weighted means of the factors; the weights are normalised to sum to 1.",
}


def newest_siblings(experts: dict[str, SavedExpert]) -> list[str]:
    """Keys of the experts of the newest run that has at least two; else all keys."""
    by_run: dict[str, list[str]] = {}
    for key in experts:
        by_run.setdefault(key.partition("/")[0], []).append(key)
    return next((keys for keys in by_run.values() if len(keys) > 1), list(experts))


def put_together(experts: dict[str, SavedExpert]) -> None:
    """Combine LoRA experts, preview the result, and keep it. Only this loads torch, once an operation is chosen."""
    st.subheader("Combine experts", anchor="combine")
    operation = st.segmented_control("Operation", list(TAKES), key="lib_do", bind="query-params")
    if operation is None or not experts:
        st.caption("Makes new experts by arithmetic on saved ones: nothing is trained, and the saved experts stay as they are.")
        return
    least, most, about = TAKES[operation]
    url_state.restore("lib_parts", list(experts), newest_siblings(experts)[:least])
    keys = st.multiselect("Experts, in this order", list(experts), key="lib_parts", max_selections=PARTS)
    if not least <= len(keys) <= most:
        number = f"{least} or more experts" if most > least else f"{least} expert{'s' if least > 1 else ''}"
        st.info(f"{operation} takes {number} and gives {about}. You have chosen {len(keys)}.")
        return
    options = chosen_options(operation, keys)
    from lab.adapters import arithmetic

    chosen = [experts[key] for key in keys]
    parts = [arithmetic.read(expert.folder, key) for key, expert in zip(keys, chosen, strict=True)]
    combined = arithmetic.add(parts, **options) if operation == "add" else getattr(arithmetic, operation)(*parts, **options)
    preview(combined, operation, chosen, options)
    with layout.section():
        effect(combined, parts, chosen, f"{operation} {options}")
    keep(combined, f"lab compose {shlex.join([operation, *keys])} {' '.join(flags(options))}".strip(), parts)


def chosen_options(operation: str, keys: list[str]) -> dict[str, Any]:
    """Draw the widgets for the options of an operation; returns its keyword arguments."""
    number: dict[str, Any] = {"min_value": -10.0, "max_value": 10.0, "step": 0.1, "bind": "query-params", "width": 220}
    if operation == "scaled":
        return {"by": st.number_input("Multiply its effect by", value=0.5, key="lib_by", **number)}
    if operation != "add":
        return {}
    how = st.segmented_control("Combine by", list(HOW), default="cat", key="lib_how", bind="query-params", required=True)
    st.caption(HOW[how])
    with st.container(horizontal=True):
        weights = [
            st.number_input(f"Weight of {layout.plain(key)}", value=1.0, key=f"lib_weight_{index}", **number)
            for index, key in enumerate(keys, 1)
        ]
    options: dict[str, Any] = {"weights": weights, "how": how}
    if how == "ties":
        about = "Share of the numbers of each expert that is kept."
        options["density"] = st.slider("Density", 0.05, 1.0, 0.2, 0.05, key="lib_density", bind="query-params", help=about)
    return options


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the flags of `lab compose`."""
    texts = {
        name: ",".join(f"{item:g}" for item in value) if isinstance(value, list) else value for name, value in options.items()
    }
    return [f"--{name} {text}" for name, text in texts.items()]


def preview(combined: "Adapter", operation: str, chosen: list[SavedExpert], options: dict[str, Any]) -> None:
    """The size of the combined expert, and how similar it is to each of its parts."""
    layers = {
        layer: {factor: combined.tensors[f"{layer}.{factor}"].double().numpy() for factor in ("lora_A", "lora_B")}
        for layer in combined.layers
    }
    table = library.alignment(layers, chosen)
    cosines = "; ".join(f"{key} {value:+z.2f}" for key, value in table.iloc[-1].items())
    left, right = st.columns([1, 3], gap="large")
    left.metric("Rank", combined.config["r"])
    left.metric("Norm", f"{library.norm(layers, combined.scale):.2f}", help="Frobenius norm of the whole update.")
    left.metric("Parameters", f"{sum(tensor.numel() for tensor in combined.tensors.values()):,}")
    with right:
        st.markdown("**Similarity to each of its parts**  \n" + layout.plain(cosines))
        parts = "".join(f"    SavedExpert(Path({str(expert.folder)!r})),\n" for expert in chosen)
        arguments = ", ".join(
            ["parts" if operation == "add" else "*parts", *(f"{name}={value!r}" for name, value in options.items())]
        )
        chart_card.card(
            figures.alignment,
            table,
            key="lib_alignment",
            alt=f"Cosine with each expert over all layers: {cosines}",
            table=lambda table: table,
            read="Cosine of the updates, by layer. 1: acts like this expert there. −1: the opposite. 0: unrelated.",
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
                    f"combined = arithmetic.{operation}({arguments})",
                    "factors = ('lora_A', 'lora_B')",
                    "tensors = {name: tensor.double().numpy() for name, tensor in combined.tensors.items()}",
                    "layers = {name: {f: tensors[f'{name}.{f}'] for f in factors} for name in combined.layers}",
                    "lab.figures.alignment(alignment(layers, chosen))",
                ]
            ),
        )


def effect(combined: "Adapter", parts: "list[Adapter]", chosen: list[SavedExpert], operation: str) -> None:
    """Accuracy of the combined expert and of its parts; the model is loaded on a click only."""
    st.markdown("**Accuracy**")
    homes = [expert.run for expert in chosen if expert.run and expert.run.kept() and expert.run.protocol.continual]
    if not homes:
        st.caption("None of these experts comes from a run that kept its classifier, so the accuracy cannot be measured.")
        return
    run, after = homes[0], homes[0].kept()[-1]
    if jobs.read_only():
        st.caption("This lab is read-only: nothing is computed here.")
        return
    learned = run.tasks[: after + 1]
    of_experts = [expert.name for expert in chosen if expert.name in learned] or learned[:1]
    url_state.set_default("lib_try", learned, list(dict.fromkeys(of_experts)))
    tasks = st.multiselect("Tasks to test it on", learned, key="lib_try", bind="query-params")
    st.caption(
        f"Accuracy on {TESTED} test examples of each task with the classifier of {layout.plain(run.title)} after its last task: "
        "once with the combined expert alone, and once with each of its parts alone."
    )
    request = (str(run.dir), after, operation, tuple(part.sha256 for part in parts), tuple(tasks))
    if st.button("Measure", icon=":material/play_arrow:", key="lib_measure", disabled=not tasks):
        st.session_state["lib_measured"] = request
    if st.session_state.get("lib_measured") == request and tasks:
        table = measured(
            run, after, tasks, {"combined": (combined, request[2:4])} | {part.name: (part, part.sha256) for part in parts}
        )
        st.dataframe(
            table,
            key="lib_effect",
            alt=f"Accuracy on {TESTED} test examples, per task and expert",
            column_config={name: st.column_config.NumberColumn(name, format="%.2f") for name in table},
        )


def measured(run: Run, after: int, tasks: list[str], adapters: "dict[str, tuple[Adapter, Any]]") -> pd.DataFrame:
    """Accuracy per task and expert. `adapters` holds each expert with the key under which its numbers are cached."""
    table = pd.DataFrame(index=pd.Index(tasks, name="task"), columns=list(adapters), dtype=float)
    progress = st.progress(0.0, "Loading the model …")
    for number, (task, name) in enumerate(itertools.product(tasks, adapters)):
        adapter, cache_key = adapters[name]
        table.at[task, name] = accuracy(run.dir, after, run.tasks.index(task), cache_key, adapter)
        progress.progress((number + 1) / table.size, f"{layout.plain(name)} on {layout.plain(task)}")
    progress.empty()
    return table


@st.cache_data(max_entries=500, show_spinner=False)
def accuracy(folder: Path, after: int, task: int, cache_key: Any, _adapter: "Adapter") -> float:
    """`Model.accuracy` on the first test examples of a task (0-based); `cache_key` stands for the adapter in the cache."""
    run = Run(folder)
    model, lock = loaded_models.loaded(run, after)
    stream = validated(run.config).stream
    names, labels_as_text = [run.tasks[task]], stream.labels_as_text
    (loaded,) = loading.load_tasks(
        stream.name, stream.sources, names, run.config["seed"], labels_as_text=labels_as_text, runs=folder.parent, **stream.limits
    )
    with lock:
        return model.accuracy(_adapter, task, loaded.test[:TESTED])


def keep(combined: "Adapter", command: str, parts: "list[Adapter]") -> None:
    """Save the combined expert in the library under a name; `command` makes the same expert."""
    read_only = jobs.read_only()
    with st.form("lib_keep", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name", max_chars=80, placeholder="my-mixture", key="lib_name", disabled=read_only, width=320)
        if st.form_submit_button("Keep in the library", icon=":material/save:", disabled=read_only):
            if name:
                actions.attempt(lambda: save(combined, name, command, parts))
            else:
                st.warning("Enter a name first.")
    st.code(f"{command} --out FOLDER{code_snippets.runs_option()}", language="bash")


def save(combined: "Adapter", name: str, command: str, parts: "list[Adapter]") -> None:
    """Write the combined expert into the library, with the command and its parts on its card."""
    from lab.adapters import arithmetic

    arithmetic.write(combined, library.place(name), command, parts)
