"""Models of runs, loaded when the first visitor needs one and shared by all visitors. Only this module loads torch."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from lab.jobs import jobs
from lab.pages import run_table
from lab.run_folder.run import Run

if TYPE_CHECKING:
    from lab.inference.routed_model import RoutedModel


@st.cache_resource(max_entries=2, show_spinner="Loading the backbone, and experts and router as they were at that moment …")
def _load(folder: str, after: int, stamps: tuple, device: str | None) -> "tuple[RoutedModel, threading.Lock]":
    """The model of a run; `stamps` only tell the cache when to load it again."""
    from lab.inference.loading import load

    return load(Run(Path(folder)), after, device), threading.Lock()


def loaded(run: Run, after: int) -> "tuple[RoutedModel, threading.Lock]":
    """The model of a run after task `after` (0-based), and the lock that lets one visitor at a time use it."""
    device = "cpu" if jobs.active() else None  # a job has the accelerator for itself
    stamps = run_table.file_stamps(run, "run.json", f"state/after_{after}/classifier.safetensors")
    return _load(str(run.dir), after, stamps, device)
