"""Tiny random models, banks with random experts, and the same experts in peft: what the exactness tests share."""

import warnings

import torch
from torch import nn

from lab.core import registry
from lab.models.expert_bank import Bank
from lab.routers.base import Decision, LayerDecision

RANK, ALPHA, EXPERTS = 3, 5.0, 3
MODELS = ("bert", "roberta", "modernbert", "llama", "gpt2")
VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}


def rel(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def config(name: str):
    """Configuration of a tiny model: 2 layers of width 32, no dropout."""
    import transformers

    drop = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain = {key: value for key, value in SIZES.items() if key not in drop}
    special = {"bos_token_id": 1, "eos_token_id": 2}
    if name == "bert":
        return transformers.BertConfig(**SIZES)
    if name == "roberta":
        return transformers.RobertaConfig(**SIZES | {"pad_token_id": 1, "max_position_embeddings": 66})
    if name == "modernbert":
        ids = {"cls_token_id": 1, "sep_token_id": 2, **special}
        std = {"initializer_cutoff_factor": 3.0, "global_attn_every_n_layers": 2, "local_attention": 8}
        return transformers.ModernBertConfig(**plain, **ids, **std)
    if name == "llama":
        return transformers.LlamaConfig(**plain, **special, num_key_value_heads=2)
    return transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=48,
        initializer_range=0.2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **special,
    )


def model(name: str, head: str = "AutoModel", **changes) -> nn.Module:
    """The same random frozen weights at each call."""
    import transformers

    settings = config(name)
    for key, value in changes.items():
        setattr(settings, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        built = getattr(transformers, head).from_config(settings, attn_implementation="eager")
        for parameter in built.parameters():
            if parameter.dim() == 1:  # biases and norms too, so that nothing hides behind a zero
                nn.init.normal_(parameter, 1.0 if parameter.mean() > 0.5 else 0.0, 0.1)
    return built.eval().requires_grad_(False)


def tokens(rows: int = 4, width: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    """Input ids and a mask with padding at the right of some rows."""
    ids = torch.randint(3, VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1::2, width - 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def randomise(bank: Bank, seed: int = 0) -> None:
    """Random values in all parameters: fresh experts change nothing and would hide every bug."""
    draw = torch.Generator().manual_seed(seed)
    for k in range(len(bank)):
        for parameter in bank.expert(k).values():
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3
    for layer in bank.routed_layers:
        layer.changed()


def bank(name: str, kind: str = "lora", composition: str = "mix", heads: int = 1, experts: int = EXPERTS, inside=None, **options):
    """(model, bank): a tiny model and a bank of random experts in it; `inside` another model than the plain one."""
    host = inside if inside is not None else model(name)
    if kind == "lora":
        options = {"rank": RANK, "alpha": ALPHA} | options
    given = registry.experts.options({"name": kind, **options})
    made = Bank(host, config(name).model_type, registry.experts.get(kind)(given), composition, heads)
    texts = tokens(3, seed=2)
    made.learn_calls(lambda rows: host(**{key: value[rows] for key, value in texts.items()})[0], near=1e-4)
    for k in range(experts):
        made.grow(f"e{k}", "test", k)
    randomise(made)
    return host, made


def in_peft(made: Bank, name: str, inside=None, **changes):
    """The same experts as adapters e0, e1, ... of a peft model around the same backbone."""
    from peft import LoraConfig, get_peft_model

    options = made.kind.options
    settings = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        use_rslora=options.rslora,
        lora_dropout=0.0,
        fan_in_fan_out=name == "gpt2",
        target_modules=[layer.name for layer in made.layers],
        **changes,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(inside if inside is not None else model(name), settings, adapter_name="e0")
        for k in range(1, len(made)):
            wrapped.add_adapter(f"e{k}", settings)
    for k in range(len(made)):
        for layer in made.layers:
            theirs = wrapped.base_model.model.get_submodule(layer.name)
            theirs.lora_A[f"e{k}"].weight.data.copy_(made.expert(k)[f"{layer.name}.lora_A"].data)
            theirs.lora_B[f"e{k}"].weight.data.copy_(made.expert(k)[f"{layer.name}.lora_B"].data)
    return wrapped.eval()


def peft_parameter(wrapped, layer: str, parameter: str, adapter: str) -> nn.Parameter:
    return getattr(wrapped.base_model.model.get_submodule(layer), parameter)[adapter].weight


def hidden(host: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return host(**inputs).last_hidden_state


def readout(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A scalar with gradients that are not degenerate: fixed random weights on all but the padding."""
    weights = torch.randn(values.shape[1:], generator=torch.Generator().manual_seed(5))
    return (values * weights * mask.unsqueeze(-1)).sum()


def weights(*shape: int, seed: int = 3, dtype=torch.float32) -> torch.Tensor:
    """Random weights that sum to one over the last axis."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1).to(dtype)


def per_token(given: torch.Tensor) -> LayerDecision:
    """A decision per token: given (L, B, T, H, E)."""
    return LayerDecision(lambda layer, x: given[layer])


def layer_outputs(host, made: Bank, decision: Decision, batch: dict) -> list[tuple]:
    """(layer, input, output) of every adapted layer in a routed pass."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: seen.append((layer, args[0], out))) for layer in made.routed_layers
    ]
    with torch.no_grad(), made.routed(decision):
        hidden(host, batch)
    for hook in hooks:
        hook.remove()
    return seen
