"""Arrow (Ostapenko et al. 2024): a LoRA answers the tokens that lie along the direction its update amplifies most."""

from lab.routers._arrow import ByDirection, DirectionOptions


class ArrowOptions(DirectionOptions):
    name: str = "arrow"


class Arrow(ByDirection):
    """Per token and layer the LoRA experts whose updates amplify the input most; made of their parameters alone, no data."""

    name = "arrow"
    Options = ArrowOptions
    options: ArrowOptions
