"""One expert with its classifier, for peft and transformers, without the lab.

The lab's classifier is linear in one vector per text: the mean of the last hidden states, the first of them, or the last. The
classes of transformers for sequence classification put more between: a layer with tanh (BERT, RoBERTa), ReLU (DistilBERT) or GELU
(ELECTRA) behind the first vector, or a layer without bias behind the last one. Where weights of that head exist with which it
computes the lab's function to rounding, they are saved:

* tanh x = x to the last bit of a float32 for |x| < 4e-4: the layer scales by 2^-17, the classifier scales back;
* ReLU x = x, and GELU x = x, where x is large: the layer adds a number above all hidden states, the classifier takes it off;
* a missing bias b goes into the bias of the last LayerNorm, as a vector d with W d = b.

A mean is computed by none of them. But a linear classifier of the mean is the mean of the classifier at every token, which is
token classification. So this is the second choice, for all three vectors. Whether it is the lab's function is tried on texts
before anything is saved, with peft, as it will be loaded.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lab.adapters import peft_folder
from lab.adapters.peft_format import HEADS
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data.stream import Example
from lab.inference import card, merging
from lab.inference.origin import Origin
from lab.inference.saved_model import new_folder
from lab.models.backbone import pool
from lab.models.learner import Learner
from lab.models.pretrained import locate, writer

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel

NEAR = 1e-5  # how far logits may be apart, as a share of the largest
SMALL = 2.0**-17  # of numbers up to 50 that are scaled by it, tanh changes no bit of a float32
TRIED = ("one two three four", "A text.", "seven eight nine ten eleven twelve", "0")
POOLED = {  # logits of a text from those of its tokens
    "mean": "(logits * inputs['attention_mask'][..., None]).sum(1) / inputs['attention_mask'].sum(1, keepdim=True)",
    "cls": "logits[:, 0]",
    "last": "logits[:, -1]  # one text at a time, or padded on the left",
}


class Form(NamedTuple):
    """How an expert may be loaded: the class of transformers, peft's name of the task, and the head's tensors by their names."""

    automatic: str  # AutoModelForSequenceClassification, ...
    task_type: str
    head: dict[str, Tensor]

    @property
    def modules(self) -> list[str]:
        """The modules that are saved as a whole."""
        owners = {name.rpartition(".")[0] for name in self.head}
        return sorted({name.split(".")[0] if name.split(".")[0] in HEADS else name for name in owners})


@dataclass(frozen=True)
class SingleExpert:
    """Expert k of those that act, in the model that `learner` holds.

    Its classes are those of its task, or all where experts are not one per task.
    """

    learner: Learner
    origin: Origin
    k: int

    def __post_init__(self) -> None:
        experts = self.learner.consolidation.experts
        if not 0 <= self.k < experts:
            raise LabError(f"there is no expert {self.k}: use 0 to {experts - 1}")

    @property
    def name(self) -> str:
        return self.learner.consolidation.names(self.learner.bank.names)[self.k]

    @property
    def labels(self) -> list[str]:
        """Names of its classes in the order of the logits; none where the model writes."""
        return [self.learner.head.space.names[c].removeprefix(f"{self.name}/") for c in self._classes]

    @property
    def _classes(self) -> Sequence[int]:
        """Numbers of its classes among those of the model."""
        space, met = self.learner.head.space, self.origin.met
        if space.scenario != "domain" and self.name in self.origin.tasks[:met]:
            return space.own[self.origin.tasks.index(self.name)]
        return range(max((own.stop for own in space.own[:met]), default=0))

    def merge(self) -> "PreTrainedModel":
        """A plain model of transformers with this expert merged in, without its classifier. Raises LabError where it cannot."""
        return merging.merged(self.learner, merging.expert_alone(self.learner, self.k)[1])

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) that give the logits of its classes from the vector of a text."""
        weight, bias = merging.classifier(self.learner)
        return weight[list(self._classes)], bias[list(self._classes)]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save it in peft's format with its classifier and a card, so that peft's AutoPeftModel loads it from the folder alone.

        README.md says how. Raises LabError for kinds of experts that peft has not, for a backbone that is no checkpoint, where
        no class of transformers computes the lab's function, and if the folder is there and not empty.
        """
        learner, kind = self.learner, self.learner.bank.kind
        backbone = learner.backbone
        if not kind.peft_format:
            raise LabError(f"expert '{self.name}' is of kind {kind.name}, for which peft has no format: save the whole model")
        if backbone.folder is None:
            raise LabError(f"backbone {backbone.config.name} is made by the lab: there is no checkpoint that peft could load")
        parameters, decision = merging.expert_alone(learner, self.k)
        reasons = []
        with new_folder(Path(folder)) as growing:
            for form, host, prefix in self._forms():
                arrays = {f"{prefix}{name}": p.detach().float().cpu().numpy() for name, p in parameters.items()}
                config = kind.peft_config([], backbone.hub_id or str(backbone.folder.absolute())) | {"task_type": form.task_type}
                config |= {"modules_to_save": form.modules} if form.head else {}
                config |= {"revision": backbone.commit} if backbone.commit else {}
                heads = {name: tensor.float().contiguous().numpy() for name, tensor in form.head.items()}
                peft_folder.write(growing, arrays, config, backbone.body, heads)
                away = self._distance(growing, host, form, decision)
                if away <= max(NEAR, 0 if backbone.config.dtype == "float32" else backbone.tolerance):
                    atomic_io.replace_bytes(growing / peft_folder.CARD, self._card(form, away).encode())
                    return Path(folder)
                reasons.append(f"{form.automatic} is {away:.0e} away")
            raise LabError(
                f"expert '{self.name}': no class of transformers computes its classifier on a {backbone.type} with pooling "
                f"{backbone.pooling} ({', '.join(reasons) or 'there is none'}): use model.expert('{self.name}').merge() and its "
                "classifier(), or save the whole model"
            )

    # -- which class -------------------------------------------------------------------------------------------------------

    def _forms(self) -> Iterator[tuple[Form, nn.Module, str]]:
        """Ways in which it may be loaded, best first; each with a model to try it in, and what stands before names of layers."""
        backbone = self.learner.backbone
        if backbone.generates:
            yield Form(writer(backbone.model.config, backbone.config.name), self.learner.bank.peft_task, {}), self._host(), ""
            return
        weight, bias = self.classifier()
        for automatic, task_type in (
            ("AutoModelForSequenceClassification", "SEQ_CLS"),
            ("AutoModelForTokenClassification", "TOKEN_CLS"),
        ):
            if task_type == "SEQ_CLS" and backbone.pooling == "mean":
                continue
            for variant in range(3 if task_type == "SEQ_CLS" else 1):
                host = self._host(automatic)
                head = None if host is None else _head(host, weight, bias, variant, token=task_type == "TOKEN_CLS")
                if host is not None and head is not None:
                    yield Form(automatic, task_type, head), host, f"{host.base_model_prefix}."

    def _host(self, automatic: str = "") -> Any:
        """The backbone with a head of transformers; None where it has none of this kind."""
        import transformers

        backbone = self.learner.backbone
        automatic = automatic or writer(backbone.model.config, backbone.config.name)
        source = locate(backbone.config.name)
        verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        more = {"num_labels": len(self._classes)} if not backbone.generates else {}
        try:
            host = getattr(transformers, automatic).from_pretrained(
                source.path, dtype=torch.float32, local_files_only=source.local, trust_remote_code=False, **more
            )
            return host.eval().requires_grad_(False)
        except ValueError:  # transformers has no such class for this model
            return None
        finally:
            transformers.utils.logging.set_verbosity(verbosity)

    @torch.no_grad()
    def _distance(self, folder: Path, host: Any, form: Form, decision: Any) -> float:
        """Largest difference of logits between peft and the lab on texts, as a share of the largest of the lab."""
        from peft import PeftModel

        learner, backbone = self.learner, self.learner.backbone
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = PeftModel.from_pretrained(host, str(folder)).eval()
        weight, bias = self.classifier() if not backbone.generates else (None, None)
        worst, largest = 0.0, 0.0
        for text in TRIED:
            batch = backbone.collate(backbone.encode([Example(text, 0)], 0, "trial"))
            inputs: dict[str, Any] = {"input_ids": batch.ids.cpu(), "attention_mask": batch.mask.cpu()}
            inputs |= {"token_type_ids": batch.types.cpu()} if backbone.takes_types else {}
            if backbone.generates and backbone.encoder_decoder:
                inputs["decoder_input_ids"] = inputs["input_ids"]
            with learner.bank.routed(decision):
                if weight is None or bias is None:
                    there = {name: value.to(backbone.device) for name, value in inputs.items()}
                    with backbone.arithmetic():
                        ours = backbone.model(**there).logits.float().cpu()
                else:
                    ours = nn.functional.linear(backbone.embed(batch).cpu(), weight, bias)
            logits = loaded(**inputs).logits.float()
            if form.task_type == "TOKEN_CLS":
                logits = pool(logits, batch.mask.cpu(), backbone.pooling)
            worst = max(worst, float((logits - ours).abs().max()))
            largest = max(largest, float(ours.abs().max()))
        return worst / max(largest, 1e-12)

    def _card(self, form: Form, away: float) -> str:
        learner, backbone = self.learner, self.learner.backbone
        auto = form.automatic.replace("AutoModel", "AutoPeftModel")
        count = len(self._classes)
        number = f", num_labels={count}" if form.head and count != 2 else ""
        use = [f"from peft import {auto}", "from transformers import AutoTokenizer", ""]
        use += [f'model = {auto}.from_pretrained("THIS_FOLDER"{number}).eval()']
        use += ["tokenizer = AutoTokenizer.from_pretrained(model.peft_config['default'].base_model_name_or_path)"]
        if form.head:
            limit = f"truncation=True, max_length={backbone.max_length}"
            use += [f'inputs = tokenizer(["a text"], return_tensors="pt", {limit})', "logits = model(**inputs).logits"]
            use += [f"logits = {POOLED[backbone.pooling]}"] if form.task_type == "TOKEN_CLS" else []
            use += [f"labels = {self.labels!r}", "label = labels[int(logits[0].argmax())]"]
        remarks = [
            f"Logits differ from the lab's with this expert alone by {away:.0e} of the largest, measured when it was saved."
        ]
        if form.head:
            remarks += [f"Labels in the order of the logits: {', '.join(self.labels)}."]
        if form.task_type == "SEQ_CLS":
            remarks += ["The head is made for float32: in half precision it is not exact."]
        if number:
            remarks += [f"Without num_labels={count}, transformers makes a head of two labels and the weights do not fit."]
        return card.of_expert(learner, self.origin, self.name, "\n".join(use), remarks)


def _head(host: Any, weight: Tensor, bias: Tensor, variant: int, token: bool) -> dict[str, Tensor] | None:
    """Tensors of the head with which it computes weight (C, D) and bias (C,); None where this variant is none for it.

    Variants: scaled down for tanh, shifted up for ReLU and GELU, the bias put into the last norm.
    """
    inside, classes = f"{host.base_model_prefix}.", len(weight)
    linear = {name: module for name, module in host.named_modules() if isinstance(module, nn.Linear)}
    outside = {name: module for name, module in linear.items() if not name.startswith(inside)}
    last = [name for name, module in outside.items() if module.out_features == classes]
    if not last or outside[last[-1]].in_features != weight.shape[1]:
        return None
    final = last[-1]
    squares = [name for name in outside if name != final]
    if not token:
        squares += [name for name in linear if name.startswith(f"{inside}pooler")]
    if any(linear[name].weight.shape != (weight.shape[1],) * 2 for name in squares):
        return None
    no_bias = outside[final].bias is None
    if token or not squares:
        if token and (squares or no_bias):
            return None
        if no_bias:
            return _without_bias(host, final, weight, bias) if variant == 2 else None
        return {f"{final}.weight": weight, f"{final}.bias": bias} if variant == 0 else None
    if no_bias or variant == 2:
        return None
    scale, shift = ((SMALL, 0.0), (1.0, _bound(host)))[variant]
    head: dict[str, Tensor] = {}
    for name in squares:
        head[f"{name}.weight"] = scale * torch.eye(weight.shape[1])
        head[f"{name}.bias"] = torch.full((weight.shape[1],), shift)
    shifted = bias.double() - shift * len(squares) * weight.double().sum(1)
    return head | {f"{final}.weight": weight / scale ** len(squares), f"{final}.bias": shifted.float()}


def _without_bias(host: Any, final: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor] | None:
    """A classifier that has no bias: it stands in the last norm, as a vector that the classifier turns into it."""
    norms = [
        (name, module)
        for name, module in host.base_model.named_modules()
        if isinstance(module, nn.LayerNorm) and module.bias is not None and tuple(module.bias.shape) == tuple(weight.shape[1:])
    ]
    if not norms:
        return None
    name, norm = norms[-1]
    more = torch.linalg.lstsq(weight.double(), bias.double()[:, None], driver="gelsd").solution[:, 0].float()
    path = f"{host.base_model_prefix}.{name}"
    return {f"{final}.weight": weight, f"{path}.weight": cast(Tensor, norm.weight), f"{path}.bias": norm.bias + more}


def _bound(host: Any) -> float:
    """A number above what leaves any norm of the model, a power of two: a normed vector has at most the root of its width."""
    norms = [module for module in host.base_model.modules() if isinstance(module, nn.LayerNorm) and module.weight is not None]
    largest = [float(m.weight.abs().max()) * math.sqrt(m.weight.numel()) + float(m.bias.abs().max()) for m in norms]
    return 2.0 ** math.ceil(math.log2(8 + max(largest, default=1.0)))  # above 8, where GELU is the identity
