"""A check, what it raises, and what all kinds of plug-ins are asked for."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from lab.core.registry import Options, Plugin, Registry

Check = Callable[[Any], None]  # takes the options of a plug-in


class Broken(Exception):
    """A plug-in does not do what its contract asks for: what is wrong, and how to mend it."""


def need(fulfilled: bool, sentence: str) -> None:
    """Broken with the sentence, where something is not fulfilled."""
    if not fulfilled:
        raise Broken(sentence)


def title(check: Callable[..., object]) -> str:
    """What a check is called in lists: `weights_have_the_axes` is "weights have the axes"."""
    return check.__name__.replace("_", " ")


def documented(plugin: type[Plugin]) -> None:
    """It says what it is, and of each option what it does and how far numbers may go."""
    need(bool(plugin.about()), f"{plugin.__name__} has no docstring: write a sentence that says what it does")
    for name, field in plugin.Options.model_fields.items():
        if name == "name":
            continue
        need(bool(field.description), f"option {name} has no description: Field(..., description='what it does')")
        need(field.default is not PydanticUndefined or field.default_factory is not None, f"option {name} has no default")
        number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        need(not number or bool(field.metadata), f"option {name} takes any number: bound it, for example Field(1.0, gt=0, le=10)")


def documentation_check(registry: Registry) -> Check:
    """The check that a plug-in of this registry is documented."""

    def says_what_it_is_and_what_its_options_do(options: Options) -> None:
        documented(registry.get(options.name))

    return says_what_it_is_and_what_its_options_do


def same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether tensors are pairwise the same, bit for bit."""
    import torch

    return len(first) == len(second) and all(map(torch.equal, first, second))
