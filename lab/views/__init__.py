"""Run folders as tables: pure functions from Run objects to pandas and numpy, shared by screens and notebooks.

No torch, no streamlit; what needs pandas is imported at its first use. T tasks, L adapted layers, H routing heads, E experts.
`after` is the index of the last learned task, from 0. Missing values are NaN or None, never 0.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lab.core.dotted import pick
from lab.run_folder.run import UNREADABLE
from lab.views.results import COMMON, Measure, Use, cell, compared, headline, judged, measures, reason
from lab.views.runs import (
    columns,
    comparable,
    complete,
    learned,
    log_tail,
    problem,
    readable,
    run_row,
    runs_table,
    task_names,
    unready,
)

if TYPE_CHECKING:
    from lab.views.compare import (
        Group,
        circumstances,
        common_average,
        common_tasks,
        config_difference,
        differences,
        groups,
        labels,
        limits,
        summary,
        summary_table,
        unequal,
    )
    from lab.views.csv_text import to_csv
    from lab.views.routing import (
        ORDERS,
        head_difference,
        largest_weight,
        layer_names,
        nearest_examples,
        own_expert,
        own_share,
        query_map,
        routed_examples,
        routing_by_layer,
        routing_by_task,
        routing_drift,
        routing_entropy,
        routing_flow,
        routing_history,
        routing_load,
        routing_map,
        routing_panels,
        routing_profile,
        shares_by_head,
        strongest_bands,
        times_equal,
    )
    from lab.views.scores import (
        OWN_SHARE,
        Runs,
        accuracy_matrix,
        average_curve,
        average_curves,
        each,
        forgetting_curves,
        matrix_difference,
        metrics_after,
        transfer_scores,
        zero_shot,
    )
    from lab.views.training import LOSS, Alert, Progress, alerts, clock, losses, progress, smoothed, task_states

_OF_TABLES = ("compare", "csv_text", "routing", "scores", "training")  # modules of this folder that load pandas


def __getattr__(name: str) -> Any:
    for module in _OF_TABLES:
        if not name.startswith("__") and hasattr(loaded := importlib.import_module(f"lab.views.{module}"), name):
            return getattr(loaded, name)
    raise AttributeError(f"module 'lab.views' has no attribute '{name}'")
