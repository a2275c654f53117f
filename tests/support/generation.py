"""Tiny models that write text, and tasks for them."""

import random

import torch

from lab.config.resolve import configure
from lab.data.stream import Example, Task
from lab.training.trainer import Session, prepare
from support import tiny

MODELS = ("llama", "gpt2", "t5")


WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(4, tiny.VOCABULARY))]


ASKED = ["w4 w5 w6", "w7 w30", "w8 w9 w10 w11 w12", "w13 w4"]  # of different lengths


ROWS = torch.tensor([2, 0, 1, 2])  # the expert of each


def tokenizer():
    """Whole words w4 ... w59; no token is added to a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


def host(name: str):
    """A random model that writes, the same at each call; T5 in its own configuration, else those of tests/tiny.py."""
    import transformers

    if name != "t5":
        return tiny.model(name, "AutoModelForCausalLM", pad_token_id=0)
    settings = transformers.T5Config(
        vocab_size=tiny.VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        initializer_factor=1.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return transformers.T5ForConditionalGeneration(settings).eval().requires_grad_(False)


def tasks(names=("a", "b", "c"), train: int = 12) -> list[Task]:
    """Task a repeats the first word of a text, b the last one, c writes both; every task has a word of its own."""
    made = []
    for number, name in enumerate(names):
        draw, texts = random.Random(name), set()
        while len(texts) < train + 8:
            texts.add(" ".join([f"w{10 + number}", *(f"w{draw.randint(20, 50)}" for _ in range(draw.randint(2, 5)))]))
        words = {text: text.split()[1:] for text in sorted(texts)}
        answer = {"a": lambda w: w[0], "b": lambda w: w[-1], "c": lambda w: f"{w[0]} {w[-1]}"}[name]
        rows = [Example(text, 0, targets=(answer(found),)) for text, found in words.items()]
        made.append(Task(name, (), rows[:train], rows[train : train + 4], rows[train + 4 :]))
    return made


def session(folder, recipe: str = "l2r", *options: str, of=None) -> Session:
    of = tasks() if of is None else of
    stage_b = ["router_training.steps=6", "memory.per_task=6"] if configure(recipe).router_training.steps else []
    fixed = ["experts.skip=0", "backbone.dtype=float32", "backbone.device=cpu", "backbone.threads=1"]
    config = configure(recipe, [*stage_b, *fixed, *options], backbone=str(folder))
    return Session(prepare(config, of), of)


def learner(folder, *options: str, of=None):
    """With three experts that are not trained but random."""
    made = session(folder, "l2r", "router.query=backbone", *options, of=of).learner
    for t in range(3):
        made.add_task(t)
    tiny.randomise(made.bank)
    return made


def asked(made, targets=("w5 w6", "w9", "w10 w11 w4", "w20")):
    examples = [Example(text, 0, targets=(target,)) for text, target in zip(ASKED, targets, strict=True)]
    return made.backbone.collate(made.encode(examples, 0, "test"))


def peft_of(made, name: str):
    return tiny.in_peft(made.bank, name, inside=host(name))
