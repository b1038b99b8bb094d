"""The generic backbone: what every family has in common.

Legend of shapes: R rows, T tokens, H hidden size, N images of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmalign import runs
from mmalign.backbones import _generation
from mmalign.records import InputError, text_of

_TOWERS = ("vision_tower", "vision_model", "visual")
_MODEL_FILES = (
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "*config.json",
    "*token*.json",
    "*.model",
    "*.jinja",
    "*.py",
    "vocab.*",
    "merges.txt",
    "chat_template.json",
)
"""What a model folder is made of: not the cards, logs, checkpoints and answers that may lie beside it."""

_PROJECTORS = ("projector", "connector", "merger")


@dataclass(frozen=True)
class Context:
    """A templated prompt with its media, ready for the model.

    Attributes:
        text: the prompt after the chat template, generation prompt included, placeholders not expanded.
        input_ids: its tokens, every media placeholder expanded to as many tokens as it has features. Shape: (T,).
        tokenwise: further per-token inputs of the family (``mm_token_type_ids``). Shape of each: (T,).
        media: what the processor made of the images (``pixel_values``, grids). First axis: images or patches.
        images: how many images there are.
    """

    text: str
    input_ids: Tensor
    tokenwise: dict[str, Tensor] = field(default_factory=dict)
    media: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class Response:
    """Tokens of one response, from the first after the generation prompt to the end-of-turn token.

    Attributes:
        input_ids: Shape: (T,).
        spans: 1 on tokens that intersect the character spans asked for, else 0. Shape: (T,).
    """

    input_ids: Tensor
    spans: Tensor


class Backbone:
    """A vision-language model, its processor, and how its family wants to be spoken to.

    Args:
        model: the Hugging Face model, or a `peft.PeftModel` around it.
        processor: its processor, with tokenizer and chat template.
        sources: folders or hub names that the weights came from, for the fingerprint.
    """

    def __init__(self, model: nn.Module, processor: Any, sources: Sequence[str | Path] = ()) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.sources = tuple(str(source) for source in sources)
        if getattr(processor, "chat_template", None) is None:
            raise InputError("the processor has no chat template", file=self.sources[0] if sources else None)

    # ---- the model's parts -------------------------------------------------------------------------------

    @property
    def hf_model(self) -> nn.Module:
        """The Hugging Face model itself, also where an adapter is wrapped around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def head(self) -> nn.Module:
        """The projection from hidden states to the vocabulary."""
        return self.hf_model.get_output_embeddings()

    @cached_property
    def image_token_id(self) -> int:
        config = self.hf_model.config
        return next(getattr(config, name) for name in ("image_token_id", "image_token_index") if hasattr(config, name))

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end the assistant's turn."""
        configured = getattr(self.hf_model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    @property
    def pad_token_id(self) -> int:
        """Fills rows up; never read, but it must not be mistaken for a media placeholder."""
        pad = self.tokenizer.pad_token_id
        return min(self.end_token_ids) if pad is None else pad

    @staticmethod
    def part_of(name: str) -> str:
        """``tower``, ``projector`` or ``language``: where the module or parameter ``name`` belongs."""
        if any(word in name for word in _PROJECTORS):
            return "projector"
        return "tower" if any(word in name for word in _TOWERS) else "language"

    def fingerprint(self) -> str:
        """Changes whenever weights, processor or adapter do; a hub name stands for itself."""
        return runs.fingerprint(*(part for source in self.sources for part in _identity_of(source)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of what the model computes."""
        return next(self.model.parameters()).dtype

    # ---- text and pictures to tensors --------------------------------------------------------------------

    def template(self, messages: Sequence[dict], *, generation_prompt: bool) -> str:
        return self.processor.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt
        )

    def encode_prompt(self, messages: Sequence[dict], images: Sequence[Image.Image] = ()) -> Context:
        """Template and tokenise a prompt, and make the tower's input of its images.

        Raises:
            InputError: placeholders and images differ in number.
        """
        text = self.template(messages, generation_prompt=True)
        found = text.count(self._placeholder)
        if found != len(images):
            raise InputError(f"{found} times {self._placeholder!r} in the templated prompt, but {len(images)} images")
        inputs = dict(
            self.processor(
                text=[text],
                images=list(images) or None,
                return_tensors="pt",
                add_special_tokens=self.adds_special_tokens(text),
            )
        )
        input_ids = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        tokenwise = {k: v[0] for k, v in inputs.items() if v.shape[:2] == input_ids.shape and "type" in k}
        media = {k: v for k, v in inputs.items() if k not in tokenwise}
        return Context(text, input_ids[0], tokenwise, media, len(images))

    def encode_response(
        self, messages: Sequence[dict], response: Sequence[dict], spans: Sequence[Sequence[int]] = ()
    ) -> Response:
        """Tokens of ``response`` as they stand after the templated prompt.

        Args:
            messages: the prompt that it answers.
            response: one assistant message.
            spans: character ranges [start, end) of its text whose tokens are to be marked.

        Raises:
            InputError: the chat template breaks the prefix property (templating the prompt with its generation
                prompt must give the beginning of templating prompt and response, in characters and in tokens).
        """
        prompt = self.template(messages, generation_prompt=True)
        whole = self.template([*messages, *response], generation_prompt=False)
        if not whole.startswith(prompt):
            raise InputError("chat template: the prompt is no prefix of prompt + response; it cannot be trained with")
        special = self.adds_special_tokens(whole)
        prompt_ids = self.tokenizer(prompt, add_special_tokens=special)["input_ids"]
        encoded = self.tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        if ids[: len(prompt_ids)] != prompt_ids:
            raise InputError("tokenizer merges the end of the prompt with the response; this model cannot be trained")
        if self.image_token_id in ids[len(prompt_ids) :]:
            raise InputError(f"the response holds the model's image placeholder, {self._placeholder!r}")
        ids, offsets = self._until_end_of_turn(ids[len(prompt_ids) :], offsets[len(prompt_ids) :], whole)
        text = text_of(response)
        start = whole.find(text.strip(), len(prompt)) - (len(text) - len(text.lstrip()))  # templates strip
        inside = _intersects(offsets, spans, start)
        return Response(torch.tensor(ids), torch.tensor(inside, dtype=torch.long))

    def _until_end_of_turn(self, ids: list[int], offsets: list, text: str) -> tuple[list[int], list]:
        """Cut after the end-of-turn token.

        A template without one gets the tokenizer's end token right after the last word: what white space it leaves
        there belongs to the turn that follows.
        """
        end = next((i for i, token in enumerate(ids) if token in self.end_token_ids), None)
        if end is not None:
            return ids[: end + 1], offsets[: end + 1]
        stop = len(ids)
        while stop and not text[slice(*offsets[stop - 1])].strip():
            stop -= 1
        return [*ids[:stop], self.tokenizer.eos_token_id], [*offsets[:stop], (0, 0)]

    @property
    def _placeholder(self) -> str:
        """What stands for an image in templated text."""
        return getattr(self.processor, "image_token", None) or self.tokenizer.convert_ids_to_tokens(self.image_token_id)

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer should add its own first token: not where the template wrote it already."""
        return not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))

    def image_token_count(self, messages: Sequence[dict], images: Sequence[Image.Image]) -> int:
        """How many image tokens a prompt has: the length of a `Job.keep` mask."""
        return int((self.encode_prompt(messages, images).input_ids == self.image_token_id).sum())

    # ---- the model's inputs ------------------------------------------------------------------------------

    def merge_media(self, contexts: Sequence[Context]) -> dict[str, Tensor]:
        """One call's media inputs for several contexts, in order. Shape: first axes concatenated."""
        keys = {key for context in contexts for key in context.media}
        merged = {k: torch.cat([c.media[k] for c in contexts if k in c.media]) for k in sorted(keys)}
        return {k: v.to(self.device, self.dtype if v.is_floating_point() else v.dtype) for k, v in merged.items()}

    def positions(
        self, input_ids: Tensor, mask: Tensor, tokenwise: dict[str, Tensor], contexts: Sequence[Context]
    ) -> Tensor:
        """Position of every token, padding on either side not counted.

        Args:
            input_ids, mask: rows, and which of their tokens are not padding. Shape: (R, T).
            tokenwise: further per-token inputs. Shape of each: (R, T).
            contexts: the prompt of each row, for families whose positions follow from the grids of its media.

        Returns:
            Shape: (R, T).
        """
        return (mask.long().cumsum(-1) - 1).clamp(min=0)

    def next_positions(self, last: Tensor) -> Tensor:
        """Positions of one more token a row, from each row's last. Shape: (R,) -> (R, 1)."""
        return last[:, None]

    def image_features(self, contexts: Sequence[Context]) -> list[list[Tensor]]:
        """Run the tower once over all images: for each context, a list of (tokens, H), one an image."""
        media = self.merge_media(contexts)
        if not media:
            return [[] for _ in contexts]
        features = iter(self.hf_model.get_image_features(**media, return_dict=True).pooler_output)
        return [[next(features) for _ in range(context.images)] for context in contexts]

    def media_inputs(self, contexts: Sequence[Context], rows: Sequence[int]) -> dict[str, Any]:
        """Model arguments that give row i the images of ``contexts[rows[i]]``, each encoded once.

        transformers before ``mm_encoder_outputs`` gets the pictures themselves, one copy a row.
        """
        if not any(context.images for context in contexts):
            return {}
        if not self._takes_features:
            return self.merge_media([contexts[row] for row in rows])
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        features = self.image_features(contexts)
        per_row = [image for row in rows for image in features[row]]
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=per_row)}}

    @cached_property
    def _takes_features(self) -> bool:
        return "mm_encoder_outputs" in inspect.signature(type(self.hf_model).forward).parameters

    # ---- what one does with it ---------------------------------------------------------------------------

    def generate(
        self,
        jobs: Sequence[_generation.Job],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Callable[[str], bool] | None = None,
    ) -> list[str]:
        """Continue every job's prompt (and prefix); see `_generation.generate`."""
        return _generation.generate(
            self, jobs, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop=stop
        )

    def merge_adapter(self) -> None:
        """Fold the adapter into the weights, in place.

        Raises:
            InputError: there is no adapter.
        """
        if not hasattr(self.model, "merge_and_unload"):
            raise InputError("no adapter to merge: this is a whole model", file=self.sources[0])
        self.model = self.model.merge_and_unload()

    def save(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a folder that plain transformers (or PEFT, for an adapter) loads, processor included."""
        self.model.save_pretrained(str(folder), state_dict=state_dict)
        self.processor.save_pretrained(str(folder))


def _identity_of(source: str) -> Iterator[str | Path]:
    """The files of a model folder, each after its name; or the hub name."""
    if not Path(source).is_dir():
        yield source
        return
    files = {file for pattern in _MODEL_FILES for file in Path(source).glob(pattern) if file.is_file()}
    for file in sorted(files):
        if file.name != "training_args.bin":
            yield from (file.name, file)


def _intersects(offsets: list[tuple[int, int]], spans: Sequence[Sequence[int]], shift: int) -> list[bool]:
    """Which tokens intersect a span of the response, whose text begins at character ``shift`` of the template."""
    if spans and shift < 0:
        raise InputError("the chat template changes the response's text, so its spans cannot be placed")
    return [any(start < e + shift and s + shift < end for s, e in spans) for start, end in offsets]
