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

SMALL = ("minilm", "tiny", "strings")  # backbones of the lab, loaded in seconds


@st.cache_resource(max_entries=3, show_spinner="Loading the backbone, and experts and router as they were at that moment …")
def _load(folder: str, after: int, stamps: tuple, device: str | None) -> "tuple[RoutedModel, threading.Lock]":
    """The model of a run; `stamps` only tell the cache when to load it again."""
    from lab.inference.loading import load

    return load(Run(Path(folder)), after, device), threading.Lock()


def loaded(run: Run, after: int) -> "tuple[RoutedModel, threading.Lock]":
    """The model of a run after task `after` (0-based), and the lock that lets one visitor at a time use it."""
    device = "cpu" if jobs.active() else None  # a job has the accelerator for itself
    model = _load(*state_of(run, after), device)
    _loaded_once().add(state_of(run, after))
    return model


@st.cache_resource
def _loaded_once() -> set[tuple[str, int, tuple]]:
    """What was loaded since the server began."""
    return set()


def takes_time(run: Run, after: int) -> bool:
    """Whether the model must probably be loaded before it can be asked."""
    return state_of(run, after) not in _loaded_once()


def state_of(run: Run, after: int) -> tuple[str, int, tuple]:
    """What changes with the weights of a run after task `after`: its folder, the moment, and stamps of its files."""
    return str(run.dir), after, run_table.file_stamps(run, "run.json", f"state/after_{after}/classifier.safetensors")


def is_small(run: Run) -> bool:
    """Whether a model is loaded in seconds, so that this need not be asked for."""
    return run.config["backbone"]["name"] in SMALL
