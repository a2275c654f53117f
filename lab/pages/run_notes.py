"""What people write about a run: its name, a star, tags, a note."""

import streamlit as st

from lab.jobs import jobs
from lab.pages import actions
from lab.run_folder import notes
from lab.run_folder.run import Run


def form(run: Run, tags: list[str], key: str) -> None:
    """The form for name, star, archive, tags and note of a run; `tags` are those used so far, `key` tells the forms apart."""
    current, reason = run.notes, jobs.why_read_only()
    with st.form(f"{key}_{run.id}", border=False):
        name = st.text_input(
            "Name",
            current["name"],
            max_chars=notes.NAME,
            placeholder=run.title,
            disabled=bool(reason),
            help=reason or f"Shown in place of the id, which stays {run.id}.",
        )
        text = st.text_area("Note", current["text"], max_chars=notes.TEXT, disabled=bool(reason), height=100)
        left, right = st.columns([1, 3])
        starred = left.toggle("Star", current["starred"], disabled=bool(reason))
        hint = "Archived runs are not offered on other pages."
        archived = left.toggle("Archived", current["archived"], disabled=bool(reason), help=hint)
        chosen = right.multiselect(
            "Tags",
            tags,
            current["tags"],
            disabled=bool(reason),
            accept_new_options=True,
            max_selections=notes.TAGS,
            placeholder="Choose or write tags",
        )
        if st.form_submit_button("Save", icon=":material/save:", disabled=bool(reason)):
            actions.attempt(jobs.annotate, run, name=name, text=text, starred=starred, archived=archived, tags=chosen)
