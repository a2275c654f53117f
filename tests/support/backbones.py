"""Random backbones as folders, with a tokenizer of whole words."""

from lab.config.schema import BackboneConfig
from lab.models.backbone import Backbone
from lab.models.pretrained import resolve
from support import tiny

TEXTS = ["the cat sat", "a dog", "the dog sat on the mat and the cat sat on the dog", "mat"]


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "on", "mat", "and"]


def tokenizer(special: bool, pad: bool = True):
    """Whole words; `special`: [CLS] text [SEP], as encoders want it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"unk_token": "[UNK]"} | ({"pad_token": "[PAD]"} if pad else {})
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if special else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **names)


def save(name: str, folder, special: bool = True, pad: bool = True) -> str:
    tiny.model(name).save_pretrained(folder)
    tokenizer(special, pad).save_pretrained(folder)
    return str(folder)


def backbone(name: str, **options) -> Backbone:
    return Backbone(resolve(BackboneConfig(name=name, device="cpu", dtype="float32", threads=1, **options)))
