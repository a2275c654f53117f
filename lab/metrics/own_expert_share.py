from lab.metrics._routing import RoutingMean


class OwnExpertShare(RoutingMean):
    """Part of the routing weight that the expert of the true task gets; 1 is a perfect router."""

    name = "own-expert-share"
    path = "routing.own_expert_share"
    title = "Own-expert share"
    latex = r"\mathrm{OWN} = \frac{1}{T} \sum_{j=1}^{T} \bar{w}_{j,j}"
    rank = 5
    recorded_as = "own_expert_share"
