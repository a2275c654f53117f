"""Models of runs for pages that ask them: loaded when the first visitor asks, and shared. Only this loads torch."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from lab.jobs import jobs
from lab.pages import run_table
from lab.run_folder.run import Run

if TYPE_CHECKING:
    from lab.analysis.inference import Model


@st.cache_resource(max_entries=2, show_spinner="Loading the backbone, and experts and router as they were at that moment …")
def _loaded(folder: str, after: int, stamped: tuple, device: str | None) -> "tuple[Model, threading.Lock]":
    from lab.analysis.inference import load

    return load(Run(Path(folder)), after, device), threading.Lock()


def loaded(run: Run, after: int) -> "tuple[Model, threading.Lock]":
    """The model of a moment, and the lock under which one visitor asks at a time."""
    device = "cpu" if jobs.active() else None  # a job has the accelerator for itself
    return _loaded(
        str(run.dir), after, run_table.file_stamps(run, "run.json", f"state/after_{after}/classifier.safetensors"), device
    )
