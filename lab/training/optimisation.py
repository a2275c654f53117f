"""The optimiser of a stage: AdamW, its learning rate over the steps, and its state as a saved run needs it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

PENALTY = 1e-2  # of logistic regression; on six built-in tasks 1e-4 to 1e-2 gave the same accuracy within half a point
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear rise over the warm-up share, then linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)


def adamw(groups: Sequence[Mapping[str, nn.Parameter]], rates: Sequence[float], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over groups of named parameters, each with a rate of its own."""
    parameters = [{"params": list(group.values()), "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    return torch.optim.AdamW(parameters, weight_decay=weight_decay)


def clip(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients down to this norm where theirs is larger, with limit 0 never; returns the norm they had."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def moments(optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """State of an optimiser as `optimizer/<number of the parameter>/<name>`; empty without one."""
    if optimizer is None:
        return {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"optimizer/{number}/{name}": tensor
        for number, parameter in enumerate(parameters)
        for name, tensor in optimizer.state[parameter].items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `moments` took of one over the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        if f"optimizer/{number}/step" not in saved:
            continue  # it has had no gradient, so the optimiser holds nothing for it
        devices = {name: "cpu" if name == "step" else parameter.device for name in MOMENTS}
        optimizer.state[parameter] = {
            name: saved[f"optimizer/{number}/{name}"].to(device, copy=True) for name, device in devices.items()
        }


def logistic_regression(x: Tensor, label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of softmax(x W^T + b) with the least mean cross-entropy on x (N, D), label (N,).

    The squared weights are penalised with PENALTY / 2, where x is centred and its mean squared length is one. By L-BFGS, in
    float64; the same from whatever was there before.
    """
    mean = x.double().mean(0)
    centred = x.double() - mean
    scale = centred.square().sum(1).mean().sqrt().clamp_min(1e-12)
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=1000, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = centred / scale @ weight.T + bias
        value = torch.nn.functional.cross_entropy(logits, label) + PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    weight = weight.detach() / scale
    return weight.to(x.dtype), (bias.detach() - weight @ mean).to(x.dtype)
