"""Plotly figures of runs: pure functions, the same for dashboard and notebooks.

Backgrounds are transparent, so a figure fits a light and a dark page. Scores and shares are always drawn on one fixed
colour range from 0 to 1; differences on a range that is symmetric around 0. Names and texts are shown literally.
"""

from lab.figures.answers import (
    ANSWER_COLOURS,
    answer_by_layer,
    answer_by_said_token,
    answer_by_token,
    answer_change,
    answer_decision,
    answer_probabilities,
    answer_tokens,
)
from lab.figures.coloured_text import coloured_text, expert_legend, expert_letter, experts_seen, layers_shown
from lab.figures.compare import decomposition, pareto, scores_of_methods
from lab.figures.drawing import FAINT, METHOD_STYLE, clickable, figure, literal, outline, short, style, styles, task_style
from lab.figures.experts import alignment, subspace_overlap
from lab.figures.routing import (
    MEASURES,
    PANELS,
    query_map,
    routing_animation,
    routing_by_layer,
    routing_by_task,
    routing_confusion,
    routing_drift,
    routing_entropy,
    routing_flow,
    routing_load,
    routing_panels,
    routing_profile,
)
from lab.figures.scores import (
    LEAST,
    accuracy_matrix,
    average_curves,
    forgetting_curves,
    guesses,
    interference,
    interference_graph,
    loss_curve,
    loss_curves,
    matrix_difference,
)
from lab.figures.what_if import pairs, what_if
