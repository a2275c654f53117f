"""Numbers of a result that are counted, not computed: what a method is given and keeps, and what a run cost."""

from lab.metrics.base import Measure, Use


def _amount(path: str, title: str, about: str, use: Use = Use.COMPARE, part_of: str = "", comes_with: str = "") -> Measure:
    return Measure(path, title, about, False, True, use, part_of, comes_with)


AMOUNTS = [
    _amount("uses.task_id", "Uses task identity", "whether the true task is given at test", Use.EXPLAIN),  # a privilege
    _amount("uses.stored_examples", "Stored examples", "training examples of old tasks kept at the end"),
    _amount("uses.generated_examples", "Generated examples", "pseudo-examples made in place of stored ones"),
    _amount("cost.trainable_parameters", "Trainable parameters", "parameters trained over the whole stream"),
    _amount("cost.stored_parameters", "Stored parameters", "numbers kept to the end: adapters and statistics"),
    _amount("cost.stored_bytes", "Stored bytes", "bytes kept from one task to the next: the three below together"),
    _amount("cost.adapter_bytes", "Adapter bytes", "experts, classifier and router", part_of="cost.stored_bytes"),
    _amount("cost.memory_bytes", "Memory bytes", "texts and labels of the stored examples", part_of="cost.stored_bytes"),
    _amount(
        "cost.statistics_bytes",
        "Statistics bytes",
        "what routers and methods keep beside their parameters",
        part_of="cost.stored_bytes",
    ),
    _amount("cost.train_s", "Training seconds", "time spent in training, or saved by taking experts from the store"),
    _amount(
        "cost.reused_s",
        "Seconds saved by reuse",
        "training seconds that experts from the store saved",
        Use.EXPLAIN,
        part_of="cost.train_s",
    ),
    _amount("cost.eval_s", "Evaluation seconds", "time spent in evaluation"),
    _amount("cost.peak_memory_bytes", "Peak memory bytes", "most memory held: on the GPU if it computed there"),
    _amount(
        "cost.adapted_parameters",
        "Adapted parameters",
        "tuned for a held-out task beside its classifier rows",
        comes_with="held_out",
    ),
]
