"""Pretrains the backbone `strings`: `python -m lab.data.strings.pretrain FOLDER`, about two minutes on two CPU cores.

A decoder of the Llama configuration (4 layers, hidden 128) learns from scratch to copy, reverse, sort and shift random strings.
Without FOLDER it replaces the weights that ship with the package.
"""

import random
import string
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lab.data.strings.skills import BASIC, LETTERS, apply, draw, prompt

MODEL = Path(__file__).parent / "model"
STEPS, BATCH, RATE = 1500, 128, 3e-3
SPECIAL = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}


def tokenizer() -> Any:
    """One token per character: letters, capital letters, `:` and `>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [*SPECIAL.values(), *LETTERS, *string.ascii_uppercase, ":", ">"]
    character_tokenizer = Tokenizer(models.WordLevel({character: i for i, character in enumerate(characters)}, unk_token="<unk>"))
    character_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    character_tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=character_tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def decoder(vocabulary: int) -> Any:
    """A Llama decoder with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="eager")


def batch(tokens: Any, chance: random.Random, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T) of prompts with their answers, and labels (B, T): those of the answer, -100 elsewhere."""
    ids, labels = [], []
    for _ in range(rows):
        skill, text = chance.choice([*BASIC]), draw(chance)
        question = tokens(prompt(BASIC[skill], text))["input_ids"]
        answer = [*tokens(apply([skill], text))["input_ids"], tokens.eos_token_id]
        ids.append(torch.tensor(question + answer))
        labels.append(torch.tensor([-100] * len(question) + answer))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


def pretrain(folder: Path, seed: int = 0, steps: int = STEPS) -> None:
    """Trains the decoder, saves it with its tokenizer, and prints the loss every 100 steps."""
    torch.manual_seed(seed)
    chance, tokens = random.Random(seed), tokenizer()
    model = decoder(len(tokens)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        ids, labels = batch(tokens, chance, BATCH)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}, {time.perf_counter() - began:.0f} s, loss {loss.item():.4f}", flush=True)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


if __name__ == "__main__":
    pretrain(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL)
