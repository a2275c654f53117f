"""What a learner keeps from one task to the next, in parameters and bytes, and the most memory that a process held."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.data.replay_buffer import Memory
from lab.methods.base import Method, state_of
from lab.models.learner import Learner


def footprint(learner: Learner, memory: Memory, methods: Sequence[Method], held: Sequence[Tensor]) -> dict[str, int]:
    """Parameters and bytes, with adapters, memory and statistics apart.

    Adapters: experts, classifier and router. Statistics: what routers and methods keep beside them, and `held`, what the
    protocol does. Memory: stored texts and generated ones.
    """
    adapters = [p for k in range(len(learner.bank)) for p in learner.bank.expert(k).values()]
    adapters += [*learner.head.classifier.parameters(), *learner.router.parameters(), *learner.consolidation.parameters()]
    statistics = [
        *learner.router.buffers(),
        *learner.consolidation.buffers(),
        *(tensor for method in methods for tensor in state_of(method).values()),
        *held,
    ]
    adapter_bytes, statistics_bytes = (sum(t.numel() * t.element_size() for t in tensors) for tensors in (adapters, statistics))
    memory_bytes = memory.bytes + sum(method.generated.bytes for method in methods)
    return {
        "trainable_parameters": sum(p.numel() for p in adapters),
        "stored_parameters": sum(t.numel() for t in [*adapters, *statistics]),
        "stored_bytes": adapter_bytes + memory_bytes + statistics_bytes,
        "adapter_bytes": adapter_bytes,
        "memory_bytes": memory_bytes,
        "statistics_bytes": statistics_bytes,
    }


def peak_memory(device: torch.device) -> int:
    """Most memory this process held so far, in bytes: on the GPU where it computes there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on a device or on the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)  # of torch's allocator on the CPU
