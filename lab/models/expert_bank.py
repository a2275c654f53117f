"""All experts of all adapted layers, stacked, behind one slot that holds the current routing decision.

Adapted layers replace layers of the frozen backbone, mostly linear ones. While the slot is empty they are the base layer exactly.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lab.adapters import initial_adapters, peft_folder, peft_format
from lab.adapters.base_model import Base, compare
from lab.core.errors import LabError, Notice
from lab.core.rng import generator
from lab.experts.base import Expert, InputExpert, LayerInfo, is_linear, parameters_of, refuse_output
from lab.models.layer_calls import LEAVE_OUT, Call, calls_of
from lab.routers.base import Decision, one_hot, refuse_weights

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class RoutedLayer(nn.Module):
    """A frozen layer and, beside it, the parameters of K experts."""

    def __init__(self, base: nn.Module, info: LayerInfo, index: int, bank: "Bank"):
        super().__init__()
        self.base, self.info, self.index = base, info, index
        self.experts = nn.ModuleList()  # of nn.ParameterDict
        self._bank = (bank,)  # in a tuple: the bank is not a submodule of its layers
        self._stacks: dict[tuple[int, ...], dict[str, Tensor]] = {}
        self.calls: Sequence[Call] = (Call(),)  # in a pass of the model, see Bank.learn_calls
        self.turn = 0  # the next of them

    @property
    def weight(self) -> Tensor:
        """The base layer's; some models look at its type before they call the layer."""
        return cast(Tensor, self.base.weight)

    @property
    def reads(self) -> int:
        """How many vectors of a row it was given at its first call when texts were tried; 0: none, or nothing of single rows."""
        return self.calls[0].vectors if self.calls and self.calls[0].axis is not None else 0

    def expert(self, k: int) -> nn.ParameterDict:
        """Parameters of expert k in this layer."""
        return cast(nn.ParameterDict, self.experts[k])

    def add(self, parameters: dict[str, Tensor]) -> None:
        device = next(self.base.parameters()).device
        self.experts.append(nn.ParameterDict({name: nn.Parameter(tensor.to(device)) for name, tensor in parameters.items()}))

    def stack(self, chosen: tuple[int, ...]) -> dict[str, Tensor]:
        """Parameters of the chosen experts with a leading expert axis; kept while all of them are frozen."""
        if chosen in self._stacks:
            return self._stacks[chosen]
        dicts = [self.expert(k) for k in chosen]
        if len(dicts) == 1:
            stacked = {name: parameter.unsqueeze(0) for name, parameter in dicts[0].items()}
        else:
            stacked = {name: torch.stack([d[name] for d in dicts]) for name in dicts[0]}
        if not any(parameter.requires_grad for d in dicts for parameter in d.values()):
            self._stacks[chosen] = stacked
        return stacked

    def changed(self) -> None:
        """Parameters were added, loaded, frozen or thawed."""
        self._stacks.clear()

    def forward(self, x: Tensor, *more: object, **named: object) -> Tensor:
        bank = self._bank[0]
        if more or named:
            raise LabError(f"layer {self.info.name} cannot have experts, it is given more than one input: {LEAVE_OUT}")
        if bank.slot is None:
            return self.base(x)
        if not self.calls:
            raise LabError(f"layer {self.info.name} was not used when texts were tried, and now it is: {LEAVE_OUT}")
        call = self.calls[self.turn]
        rows = call.by_row(x, bank.slot.rows, self.info.name)  # (B, N, I), or ids (B, N)
        stack, w = self.routed(bank.slot, rows)
        self.turn = (self.turn + 1) % len(self.calls)
        if call.axis is None and len(w) > 1:  # what all rows share differs between them from here on
            rows = rows.expand(len(w), *rows.shape[1:])
        how = bank.slot.composition or bank.composition
        out = bank.kind.output(self.base, rows, stack | bank.shared, w, how)
        refuse_output(bank.kind, self.info, rows, out)
        return out if rows is x else call.as_given(out, x)

    def routed(self, slot: Decision, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Parameters of the experts that the decision is about, and their weights (B|1, T|1, H, E) for the rows x (B, ...).

        A layer that is called several times in a pass decides at its first call.
        """
        chosen = tuple(range(len(self.experts))) if slot.experts is None else slot.experts
        if self.turn == 0:
            w = slot.weights_for_layer(self.index, x)
        else:
            w = slot.weights_again(self.index, per_token=self.calls[self.turn].axis is not None)
        of_tokens = isinstance(w, Tensor) and w.dim() == 4
        axes = {"rows": (1, len(x)), "tokens": (1, x.shape[1])} if of_tokens else {"rows": (1, len(x), slot.rows or 1)}
        stack = self.stack(chosen) if slot.stacks is None else slot.stacks[self.index]
        experts = len(next(iter(stack.values())))
        refuse_weights(slot.of, w, axes | {"routing heads": (1, self._bank[0].heads), "experts": (experts,)}, x.device)
        return stack, w if of_tokens else w.unsqueeze(1)


class RoutedInput(RoutedLayer):
    """The embedding of the tokens, where experts put vectors of their own before them.

    Two hooks on the model keep this from everyone else: the vectors go in with the tokens, and the hidden states that come out
    are those of the tokens alone. Rows may differ in what stands before them: it is packed without gaps, so positions are counted
    as if nothing else were there.
    """

    def __init__(self, base: nn.Module, info: LayerInfo, index: int, bank: "Bank", model: nn.Module):
        super().__init__(base, info, index, bank)
        self.entered: Tensor | None = None  # (B, T): where the tokens of the batch in progress stand
        model.register_forward_pre_hook(self.prepend_prompt, with_kwargs=True)
        model.register_forward_hook(self.strip_prompt)

    def forward(self, ids: Tensor) -> Tensor:
        return self.base(ids)

    def prepend_prompt(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Replace the token ids by embedded tokens behind what the experts put before them."""
        bank, self.entered = self._bank[0], None
        kind = bank.kind
        assert isinstance(kind, InputExpert), "only experts that stand before the text are put here"
        if bank.slot is None:
            return None
        if kwargs.get("past_key_values") is not None:
            raise LabError(f"experts of kind '{kind.name}' stand before the whole text: generate without a cache")
        inputs = dict(kwargs)
        tokens, mask = self.base(inputs.pop("input_ids")), inputs["attention_mask"]  # (B, T, D), (B, T)
        stack, w = self.routed(bank.slot, tokens)
        if len(w) not in (1, len(tokens)):
            raise LabError(f"the routing decision is for {len(w)} rows, layer {self.info.name} was given {len(tokens)}")
        if w.shape[1] > 1:
            raise LabError(f"experts of kind '{kind.name}' are chosen per example, not per token: use another router")
        before, there = kind.before(stack, w[:, 0], bank.slot.composition or bank.composition)  # (b, P, D), (b, P)
        there = there.expand(len(tokens), -1)
        width = int(there.sum(1).max()) + mask.shape[1]
        absent = torch.cat([~there, torch.zeros_like(mask, dtype=torch.bool)], dim=1)  # (B, P + T)
        order = absent.to(torch.uint8).argsort(dim=1, stable=True)[:, :width]  # (B, W): what is absent comes last
        vectors = torch.cat([before.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        inputs["inputs_embeds"] = vectors.gather(1, order.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))
        inputs["attention_mask"] = torch.cat([there.to(mask.dtype), mask], dim=1).gather(1, order)
        if inputs.get("token_type_ids") is not None:
            types = inputs["token_type_ids"]
            inputs["token_type_ids"] = torch.cat([types.new_zeros(there.shape), types], dim=1).gather(1, order)
        self.entered = there.sum(1, keepdim=True) + torch.arange(mask.shape[1], device=mask.device)
        return args, inputs

    def strip_prompt(self, model: nn.Module, args: tuple, output: Any) -> Any:
        """Keep the hidden states of the tokens (B, T, D)."""
        if self.entered is not None:
            hidden = output.last_hidden_state
            output.last_hidden_state = hidden.gather(1, self.entered.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            self.entered = None
        return output


class Bank(nn.Module):
    """K experts in every adapted layer of `model`: grow, freeze, route, save and load.

    The decision's weights have the axes (batch, layer, routing head, expert). Raises LabError for targets that match nothing.
    """

    def __init__(self, model: "PreTrainedModel", model_type: str, kind: Expert, composition: str = "mix", heads: int = 1):
        super().__init__()
        self.kind, self.composition, self.heads = kind, composition, heads
        self.slot: Decision | None = None
        self.names: list[str] = []
        self.initial_values: dict[str, dict[str, Tensor]] = {}  # what experts of these names begin with, else random values
        self.peft_task = _peft_task(model)
        self.adaptable = [name for name, module in model.named_modules() if kind.adapts(module, model)]
        self.routed_layers: list[RoutedLayer] = []
        infos = [info_of(name, model.get_submodule(name)) for name in self._targets(model, model_type)]
        for info in infos:  # before any layer is replaced
            kind.check_heads(info, heads)
        device = next(model.parameters()).device
        self.shared = {
            name: tensor.to(device) for name, tensor in kind.shared(infos).items()
        }  # frozen, of all experts and layers
        self.fixed: frozenset[str] = frozenset()  # parameters of an expert that are given values and not trained, by name
        for index, info in enumerate(infos):
            base = model.get_submodule(info.name)
            of_input = isinstance(kind, InputExpert)
            layer = RoutedInput(base, info, index, self, model) if of_input else RoutedLayer(base, info, index, self)
            model.set_submodule(info.name, layer)
            self.routed_layers.append(layer)

    def _targets(self, model: "PreTrainedModel", model_type: str) -> list[str]:
        layers = self.adaptable
        named = self.kind.options.targets
        endings = self.kind.targets(model) if named is None else named
        if endings is None:
            raise LabError(
                f"which layers of a '{model_type}' to adapt is not known: name them with experts.targets, from {_endings(layers)}"
            )
        chosen = [name for name in layers if any(_ends(name, ending) for ending in endings)]
        if not chosen and not (named == [] and self.kind.options.layers):
            raise LabError(
                f"experts.targets = {list(endings)} matches no linear layer of this backbone; there are {_endings(layers)}"
            )
        blocks = 1 + max(map(_block, layers))
        kept = [name for name in chosen if _block(name) >= round(self.kind.options.skip * blocks) or _block(name) < 0]
        if chosen and not kept:
            raise LabError(
                f"experts.skip = {self.kind.options.skip} leaves no layer to adapt: the targets stand in blocks "
                f"{', '.join(map(str, sorted(set(map(_block, chosen)))))} of {blocks}"
            )
        return self._with_layers_of_start(kept)

    def _with_layers_of_start(self, kept: list[str]) -> list[str]:
        """These layers and those that `experts.layers` names in whatever model holds the backbone, in forward order."""
        for wanted in self.kind.options.layers:
            same = [name for name in self.adaptable if _ends(wanted, name) or _ends(name, wanted)]
            if not same:
                adapters = initial_adapters.read(self.kind.options.start)
                owner = next((f"start.{name}" for name, saved in adapters.items() if wanted in saved.layers()), "layers")
                near = ", ".join(self.adaptable[:3])
                raise LabError(f"experts.{owner}: the backbone has no layer {wanted}; it has {near}, ...")
            kept = [*kept, max(same, key=len)]
        return [name for name in self.adaptable if name in kept]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def layers(self) -> list[LayerInfo]:
        """The adapted layers in forward order."""
        return [layer.info for layer in self.routed_layers]

    def grow(self, name: str, *key: object) -> int:
        """A fresh expert in every layer, drawn from generators keyed by `key` or with its initial values; returns its number."""
        if name in self.names:
            raise LabError(f"the bank already has an expert called '{name}'")
        for layer in self.routed_layers:
            layer.add(parameters_of(self.kind, layer.info, generator(*key, layer.info.name)))
            layer.changed()
        self.names.append(name)
        if name in self.initial_values:
            self.load_expert(len(self.names) - 1, self.initial_values[name])
        return len(self.names) - 1

    def reinitialise(self, k: int, *key: object) -> None:
        """Expert k as `grow` with this key made it."""
        fresh = {layer.name: parameters_of(self.kind, layer, generator(*key, layer.name)) for layer in self.layers}
        drawn_values = {f"{layer}.{name}": tensor for layer, new in fresh.items() for name, tensor in new.items()}
        self.load_expert(k, self.initial_values.get(self.names[k], drawn_values))

    @torch.no_grad()
    def average(self, name: str) -> None:
        """One expert in place of all, with the means of their parameters: what merging with equal weights makes of them."""
        for layer in self.routed_layers:
            experts = [layer.expert(k) for k in range(len(self))]
            mean = {own: torch.stack([expert[own] for expert in experts]).mean(0) for own in experts[0]}
            layer.experts = nn.ModuleList()
            layer.add(mean)
            layer.changed()
        self.names = [name]
        self.trainable(0, False)

    def expert(self, k: int) -> dict[str, nn.Parameter]:
        """Parameters of expert k, named `<layer>.<parameter>`."""
        return {f"{layer.info.name}.{name}": p for layer in self.routed_layers for name, p in layer.expert(k).items()}

    def is_fixed(self, name: str) -> bool:
        """Whether the parameter `<layer>.<parameter>` of an expert is not trained."""
        return name.rpartition(".")[2] in self.fixed

    def experts(self) -> list[dict[str, nn.Parameter]]:
        """Parameters of all experts, as `expert` names them."""
        return [self.expert(k) for k in range(len(self))]

    def trainable(self, k: int, on: bool) -> None:
        """Thaw or freeze expert k."""
        for name, parameter in self.expert(k).items():
            parameter.requires_grad_(on and not self.is_fixed(name))
            parameter.grad = None
        for layer in self.routed_layers:
            layer.changed()

    @torch.no_grad()
    def load_expert(self, k: int, tensors: dict[str, Tensor]) -> None:
        """Copy values into expert k; names and shapes must be those of `expert(k)`."""
        parameters = self.expert(k)
        _same_shapes(tensors, parameters)
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
        for layer in self.routed_layers:
            layer.changed()

    @contextmanager
    def routed(self, decision: Decision | None) -> Iterator[Decision | None]:
        """Switch experts on as the decision says, inside the block.

        Keep the block open through `backward`: activation checkpointing runs layers again there. Blocks do not nest.
        """
        if self.slot is not None:
            raise LabError("the bank is already routed: close the open block first")
        self.slot = decision
        for layer in self.routed_layers:
            layer.turn = 0
        try:
            yield decision
        finally:
            self.slot = None

    # -- what layers are given -------------------------------------------------------------------------------------

    @torch.no_grad()
    def learn_calls(self, run: Callable[[Sequence[int]], Tensor], near: float, alike: bool = False) -> None:
        """Find out on the model itself what its adapted layers are given in a pass.

        `run(rows)` passes some of three texts, padded alike, through the model and returns what becomes of each (n, ...). Where
        the inputs are no plain (B, T, I), rows that are routed to different experts are compared with each row alone: they may
        differ by `near` of what the choice of the expert changes; `alike` says that rows never are. Raises LabError, naming the
        layer, for inputs that are not understood, as where tokens are dealt out to experts of the backbone's own.
        """
        fewer, more = self._inputs(lambda: run([0, 1])), self._inputs(lambda: run([0, 1, 2]))
        for layer, two, three in zip(self.routed_layers, fewer, more, strict=True):
            layer.calls = calls_of(layer.info.name, two, three)
        unusual = [layer.info.name for layer, shapes in zip(self.routed_layers, fewer, strict=True) if not _plain(shapes)]
        if unusual and not alike and not self._rows_act_alone(run, near):
            raise LabError(
                "rows of a batch that are routed to different experts would disturb each other in this backbone, because of what "
                f"{', '.join(unusual[:4])}{' and others' if len(unusual) > 4 else ''} are given: choose other experts.targets"
            )

    def _inputs(self, run: Callable[[], object]) -> list[list[tuple[int, ...]]]:
        """Per adapted layer, the shapes of its inputs in a pass without experts; ids have one feature."""
        seen: list[list[tuple[int, ...]]] = [[] for _ in self.routed_layers]

        def look(module: nn.Module, args: tuple, out: object) -> None:
            layer, (x,) = cast(RoutedLayer, module), args
            if not isinstance(out, Tensor):
                raise LabError(f"layer {layer.info.name} cannot have experts, it returns more than a tensor: {LEAVE_OUT}")
            seen[layer.index].append((*x.shape,) if x.is_floating_point() else (*x.shape, 1))

        hooks = [layer.register_forward_hook(look) for layer in self.routed_layers]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _rows_act_alone(self, run: Callable[[Sequence[int]], Tensor], near: float) -> bool:
        """Whether a batch of rows with different random experts gives what each row gives alone."""
        draw, device = generator("trial of layers"), next(self.routed_layers[0].base.parameters()).device
        stacks = []
        for layer in self.layers:
            new = parameters_of(self.kind, layer, draw)
            noisy = {own: [t + 0.1 * torch.randn(t.shape, generator=draw) for _ in range(2)] for own, t in new.items()}
            stacks.append({own: torch.stack(pair).to(device) for own, pair in noisy.items()})

        def routed(rows: Sequence[int], experts: Sequence[int]) -> Tensor:
            with self.routed(Decision(one_hot(torch.tensor(experts, device=device), 2, self.heads), stacks=stacks)):
                return run(rows)

        try:
            together = routed([0, 1, 2], [0, 1, 0])
            own, other = (torch.cat([routed([r], [e]) for r, e in enumerate(es)]) for es in ((0, 1, 0), (1, 0, 1)))
        except (RuntimeError, ValueError, IndexError):  # the model cannot compute with what the layers return
            return False
        allowed = near * (other - own).abs().amax() + 1e-5 * own.abs().amax()
        return bool((together - own).abs().amax() <= allowed)

    # -- files -----------------------------------------------------------------------------------------------------

    def export(self, k: int, folder: Path, base: str = "", backbone: str = "", revision: str | None = None) -> None:
        """Save expert k: in peft's format where the kind has one, else as one safetensors file with the same names.

        `base` is what its backbone is called, and `backbone` its digest, by which other weights of that name are told apart;
        `revision`: its commit on the hub, where it is known.
        """
        arrays = {name: p.detach().float().cpu().numpy() for name, p in self.expert(k).items()}
        config = {"expert": self.kind.options.model_dump(), "name": self.names[k], "base_model_name_or_path": base}
        if self.kind.peft_format:
            config = self.kind.peft_config([layer.name for layer in self.layers], base) | {"task_type": self.peft_task}
            config |= {"revision": revision} if revision else {}
        peft_folder.write(folder, arrays, config, backbone)

    def import_expert(self, folder: Path, name: str) -> int:
        """Add the expert saved in `folder` (by `export` or by peft's `save_pretrained`) to the bank; returns its number.

        Raises LabError if it cannot be one of this bank's experts, see `load_compatible`.
        """
        tensors = self.load_compatible(folder)
        k = self.grow(name, "imported", name)
        self.load_expert(k, tensors)
        self.trainable(k, False)
        return k

    def load_compatible(self, folder: Path, base: Base | None = None) -> dict[str, Tensor]:
        """Tensors with which an expert of this bank computes what the saved one does; `base` is this bank's backbone.

        Its scale and rank become those of the bank; in layers that it has not, a fresh expert stands, which changes nothing.
        Raises LabError if it is damaged, of another kind or backbone, of a higher rank, or of layers the bank does not adapt;
        warns of what was left out of it, and of what could not be compared.
        """
        saved = peft_folder.read(folder)
        try:
            compared = compare(saved.base, base) if base else ""
            tensors, outside = self._fitted(saved)
        except LabError as error:
            raise LabError(f"{folder}: {error}") from None
        for note in filter(None, (*saved.notes, compared, outside)):
            warnings.warn(f"{folder}: {note}", Notice, stacklevel=2)
        return tensors

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Tensors of an expert that this bank has saved."""
        saved = peft_folder.read(folder)
        if set(saved.layers()) != {layer.name for layer in self.layers}:
            raise LabError(f"{folder} holds an expert of other layers than those of this bank")
        return self._fitted(saved)[0]

    def _fitted(self, saved: peft_folder.SavedAdapter) -> tuple[dict[str, Tensor], str]:
        """Tensors by this bank's names and shapes, and what was left out of them."""
        self._refuse_other_kinds(saved)
        own = {layer.name: layer for layer in self.layers}
        names = peft_format.aligned(saved.layers(), self.adaptable)
        outside = [name for name in names.values() if name not in own and _of_pooler(name)]
        strange = next((name for name in names.values() if name not in own and not _of_pooler(name)), None)
        if strange is not None and strange in self.adaptable:
            wanted = [*own, *(name for name in names.values() if name not in own)]
            raise LabError(f"it adapts layer {strange}, these experts do not: use -o experts.layers=[{','.join(wanted)}]")
        if strange is not None:
            near = ", ".join(self.adaptable[:3])
            raise LabError(f"it adapts layer {strange}, which this backbone does not have; it has {near}, ...")
        if peft_folder.in_peft(saved.config):
            peft_format.check_complete(saved.original, names, [name for name in self.adaptable if not _of_pooler(name)])
        theirs = {names[layer]: parameters for layer, parameters in saved.layers().items()}
        tensors: dict[str, Tensor] = {}
        for name, layer in own.items():
            fresh = parameters_of(self.kind, layer, generator("padding", name))
            parameters = {key: torch.from_numpy(array) for key, array in theirs.get(name, {}).items()}
            try:
                fitted = self.kind.fitted(parameters, fresh, peft_folder.scale(saved.config)) if parameters else fresh
            except LabError as error:
                raise LabError(f"layer {name}: {error}") from None
            _same_shapes(fitted, fresh, f"{name}.")
            tensors |= {f"{name}.{key}": tensor for key, tensor in fitted.items()}
        left_out = f"what it adapts in the pooler ({', '.join(outside)}) acts behind the hidden states and is left out"
        return tensors, left_out if outside else ""

    def _refuse_other_kinds(self, saved: peft_folder.SavedAdapter) -> None:
        kind = self.kind.options.name
        ours = self.kind.peft_config([], "") if self.kind.peft_format else {"expert": {"name": kind}}
        if saved.kind != peft_folder.kind_of(ours):
            raise LabError(f"it holds no expert of kind '{kind}' but one of kind '{saved.kind.lower()}'")
        for field in self.kind.must_agree:
            own, theirs = getattr(self.kind.options, field), saved.config["expert"].get(field)
            if own != theirs:
                raise LabError(f"{field} is {theirs}, the experts of this bank have {own}")


def _of_pooler(name: str) -> bool:
    """Whether the layer stands behind the hidden states, from which the lab makes the representation of a text."""
    return "pooler" in name.split(".")


def _plain(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a layer is given the two rows of a batch and their tokens (2, T, I), once or several times."""
    return all(len(shape) == 3 and shape[0] == 2 for shape in shapes)


def _same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], within: str = "") -> None:
    """Refuse parameters of other names or shapes; `within` stands before the names in the message."""
    if set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))[:3]
        raise LabError(f"these parameters do not belong to an expert of this bank: {within}{', '.join(odd)} do not match")
    for name, parameter in expected.items():
        if tensors[name].shape != parameter.shape:
            raise LabError(f"{within}{name} has shape {tuple(tensors[name].shape)}, this bank needs {tuple(parameter.shape)}")


def _peft_task(model: "PreTrainedModel") -> str:
    """What peft calls the use of such a model."""
    if not model.can_generate():
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def info_of(name: str, module: nn.Module) -> LayerInfo:
    """What an expert kind is told about a layer."""
    shapes = tuple((own, tuple(parameter.shape)) for own, parameter in module.named_parameters(recurse=False))
    if isinstance(module, nn.Linear):
        return LayerInfo(name, module.in_features, module.out_features, shapes)
    shape = cast(Tensor, module.weight).shape
    inputs, outputs = shape if is_linear(module) else shape[-1:] * 2  # Conv1D is transposed
    return LayerInfo(name, inputs, outputs, shapes)


def _ends(name: str, ending: str) -> bool:
    """Whether a layer's dotted name ends with `ending`, whole words only; `[0-9]` in an ending stands for a number.

    "*" alone stands for every layer but the pooler, which the backbone's sequence representation is made without.
    """
    if ending == "*":
        return not name.startswith("pooler.")
    parts, wanted = name.split("."), ending.split(".")
    pairs = zip(parts[-len(wanted) :], wanted, strict=False)
    return len(parts) >= len(wanted) and all(part.isdigit() if want == "[0-9]" else part == want for part, want in pairs)


def _block(name: str) -> int:
    """Number of the transformer block that a layer belongs to, -1 outside of them."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def _endings(names: Sequence[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))
