"""A decomposition of losses, written by hand."""

WENT = {
    "tasks": [
        {
            "task": "animals",
            "learned": 0.9,
            "last": 0.5,
            "loss": 0.4,
            "router": None,
            "experts": 0.3,
            "classifier": 0.15,
            "new_classes": -0.05,
            "oracle_learned": None,
            "oracle_last": None,
        },
        {
            "task": "weather",
            "learned": 0.8,
            "last": 0.6,
            "loss": 0.2,
            "router": None,
            "experts": 0.1,
            "classifier": 0.05,
            "new_classes": 0.05,
            "oracle_learned": None,
            "oracle_last": None,
        },
    ],
    "mean": {"loss": 0.3, "router": None, "experts": 0.2, "classifier": 0.1, "new_classes": 0.0},
    "why": {"router": "there is one shared expert: nothing to route"},
}
