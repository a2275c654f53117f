from lab.metrics._routing import RoutingMean


class RoutingAccuracy(RoutingMean):
    """How often the expert of the true task has the largest weight, over test examples, layers and routing heads."""

    name = "routing-accuracy"
    path = "routing.accuracy"
    title = "Routing accuracy"
    latex = r"\mathrm{HIT} = \frac{1}{T} \sum_{j=1}^{T} \Pr\left( \arg\max_e w_e = j \right)"
    rank = 6
    recorded_as = "accuracy"
    reason_of = "own_expert_share"
