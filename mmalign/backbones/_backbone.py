"""The generic backbone: what every family has in common.

A media token is one that a feature of a picture or of a clip stands in for.

Legend of shapes: R rows, T tokens of a row, P tokens of a prompt, N media tokens of a prompt, H hidden size, A axes of
a position (1; 3 where a family counts time, height and width).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmalign import runs
from mmalign.backbones import _choice, _generation, _looking, _packing, _processors, _trained_on, _written
from mmalign.backbones._packing import Packed, visible
from mmalign.backbones._trained_on import TrainedOn
from mmalign.backbones._written import Part, Processed
from mmalign.media import Clip, as_pictures
from mmalign.media.noise import Noise
from mmalign.records import InputError, text_of, user_message

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

_EMPTY = Image.new("RGB", (32, 32))

_PROJECTORS = ("projector", "connector", "merger")
_PROJECTOR_NAMES = ("multi_modal_projector", "connector", "merger")


@dataclass(frozen=True)
class Context:
    """A templated prompt with its media, ready for the model.

    Attributes:
        text: the prompt after the chat template, generation prompt included, placeholders not expanded.
        input_ids: its tokens, every media placeholder expanded to as many tokens as it has features. Shape: (P,).
        positions: of its tokens. Shape: (A, P).
        next_position: of the first token after the prompt, on every axis.
        media: what the tower gets of its pictures and clips (``pixel_values``, grids). First axis: pictures, frames,
            tiles or patches.
        media_key: contexts of one batch with the same key have the same media in the same order, which are then encoded
            once.
        text_places: where in ``input_ids`` the prompt's text is, without all that stands for media; only if that was
            asked for. Shape: (Q,).
    """

    text: str
    input_ids: Tensor
    positions: Tensor
    next_position: int
    media: dict[str, Tensor] = field(default_factory=dict)
    media_key: Hashable = None
    text_places: Tensor | None = None


@dataclass(frozen=True)
class Features:
    """What tower and projector make of the pictures and clips of one prompt, in order.

    Attributes:
        tokens: one for every media token of the prompt. Shape: (N, H).
        deepstack: what is added at media tokens after each of the first layers (Qwen3-VL). Shape of each: (N, H).
    """

    tokens: Tensor
    deepstack: tuple[Tensor, ...] = ()

    def only(self, kept: Tensor) -> Features:
        """Those of some of the media tokens. Shape: (N,), boolean."""
        return Features(self.tokens[kept], tuple(layer[kept] for layer in self.deepstack))


@dataclass(frozen=True)
class Response:
    """Tokens of one response, from the first after the generation prompt to the end-of-turn token.

    Attributes:
        input_ids: Shape: (T,).
        spans: 1 on tokens that intersect the character spans asked for, else 0. Shape: (T,).
    """

    input_ids: Tensor
    spans: Tensor

    def first(self, count: int) -> Response:
        """Its first tokens only."""
        return Response(self.input_ids[:count], self.spans[:count])


class Backbone:
    """A vision-language model, its processor, and how its family wants to be spoken to.

    Args:
        model: the Hugging Face model, or a `peft.PeftModel` around it.
        processor: its processor, with tokenizer and chat template.
        sources: folders or hub names that the weights came from, for the fingerprint.

    Attributes:
        trained_on: how it saw clips in its training; None where that is not known, or it saw none. Saved with it.
        native_video: whether clips go through the processor's video part, and not as pictures of their frames.
    """

    knows_clips = False
    """Whether models of this family were made for clips."""

    clips_apart = False
    """Whether clips go through the tower in another way than pictures do, and so in a call of their own."""

    least_frames = 1
    """A clip with fewer has its last one shown again."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        sources: Sequence[str | Path] = (),
        *,
        native_video: bool = False,
        trained_on: TrainedOn | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.native_video = native_video
        self.trained_on = trained_on
        self.tokenizer = processor.tokenizer
        self.sources = tuple(str(source) for source in sources)
        if native_video:
            _processors.settle(processor)
        self.embeds_need_grad = False  # set where activations are recomputed in reentrant segments
        if getattr(processor, "chat_template", None) is None:
            raise InputError("the processor has no chat template", file=self.sources[0] if sources else None)

    def around(self, model: nn.Module) -> Backbone:
        """The same backbone with another model of its family inside."""
        other = copy.copy(self)
        other.model = model
        return other

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
    def media_token_ids(self) -> frozenset[int]:
        """Tokens whose place a feature takes: of pictures, and of clips where these have one of their own."""
        own = getattr(self.hf_model.config, "video_token_id", None) if self.native_video else None
        return frozenset({self.image_token_id} | {own} - {None})

    def is_media(self, input_ids: Tensor) -> Tensor:
        """Which tokens are media tokens. Shape: that of ``input_ids``, boolean."""
        first, *others = self.media_token_ids
        found = input_ids == first
        for other in others:
            found |= input_ids == other
        return found

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
        return fingerprint_of(*self.sources)

    def processor_fingerprint(self) -> str:
        """Changes whenever the processor would make other tokens or pixels."""
        tokenizer, image_processor = self.tokenizer.backend_tokenizer.to_str(), self.processor.image_processor.to_dict()
        clips = [self.processor.video_processor.to_dict()] if self.native_video else []
        return runs.fingerprint(tokenizer, self.processor.chat_template, image_processor, *clips)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of what the model computes."""
        return next(self.model.parameters()).dtype

    # ---- text and pictures to tensors --------------------------------------------------------------------

    def template(self, messages: Sequence[dict], *, generation_prompt: bool) -> str:
        """The messages in the model's chat template. Raises InputError where it refuses them, a system turn say."""
        from jinja2 import TemplateError  # what templates are rendered with

        try:
            return self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation_prompt
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(f"the model's chat template refuses turns of {roles}: {error}", field="prompt") from None

    def encode_prompt(
        self,
        messages: Sequence[dict],
        images: Sequence[Image.Image] = (),
        media_key: Hashable = None,
        *,
        videos: Sequence[Clip] = (),
        text_places: bool = False,
        processed: Processed | None = None,
    ) -> Context:
        """Template and tokenise a prompt, and make the tower's input of its images and clips.

        Args:
            media_key: names the images and clips, each kind in its order; by default nobody shares them.
            text_places: find them; see `Context`.
            processed: what the processor made of media before; what it makes of these is added.

        Raises:
            InputError: placeholders and media differ in number, or the chat template refuses the turns.
            MediaError: with reason refused, the processor does not take an image or a clip.
        """
        kinds = tuple(block["type"] for message in messages for block in message["content"] if block["type"] != "text")
        own = images, videos
        messages, images, clips = self._seen(messages, images, videos)
        text = self.template(messages, generation_prompt=True)
        self._check_placeholders(text, {"image": len(images), "video": len(clips)})
        try:
            written = _written.write(self, text, images, clips, processed or Processed())
        except _written.Refused as error:
            raise error.located(*own) from error
        positions = self.positions(written.input_ids, written.parts)
        return Context(
            text,
            written.input_ids,
            positions[:, :-1],
            int(positions[0, -1]),
            self.media_of(written.parts) if written.parts else {},
            (kinds, object() if media_key is None else media_key),
            written.text_places if text_places else None,
        )

    def _seen(
        self, messages: Sequence[dict], images: Sequence[Image.Image], videos: Sequence[Clip]
    ) -> tuple[Sequence[dict], Sequence[Image.Image], Sequence[Clip]]:
        """A prompt and its media as the model gets them: clips as they are, or as pictures."""
        shown, pictures = as_pictures(messages, [[image] for image in images], [[*clip.frames] for clip in videos])
        return (messages, images, videos) if self.native_video else (shown, pictures, ())

    def _check_placeholders(self, text: str, media: dict[str, int]) -> None:
        """Raise InputError unless a templated prompt has as many placeholders as there are media, of each kind."""
        for kind, mark in self.marks.items():
            found = text.count(mark)
            if kind == "video" and not found and media[kind]:
                raise InputError("the model's chat template knows no clips: --video frames shows them as pictures")
            if found != media[kind]:
                problem = f"{found} times {mark!r} in the templated prompt, but {media[kind]} {kind}s"
                raise InputError(problem, field="prompt")

    def process(self, **inputs: Any) -> dict[str, Any]:
        """Call the processor."""
        return self.processor(**inputs)

    def media_of(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        """What the tower gets, from what the processor made of each picture and clip, in the prompt's order."""
        inputs = [part.inputs for part in parts]
        return inputs[0] if len(inputs) == 1 else {key: concatenated([i[key] for i in inputs]) for key in inputs[0]}

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
        messages = self.with_media(messages)
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
        if mark := self.placeholder_in(text_of(response)):
            raise InputError(f"the response holds the model's placeholder for pictures or clips, {mark!r}")
        ids, offsets = self._until_end_of_turn(ids[len(prompt_ids) :], offsets[len(prompt_ids) :], whole)
        text = text_of(response)
        start = whole.find(text.strip(), len(prompt)) - (len(text) - len(text.lstrip()))  # templates strip
        inside = _intersects(offsets, spans, start)
        return Response(torch.tensor(ids), torch.tensor(inside, dtype=torch.long))

    def with_media(self, messages: Sequence[dict]) -> list[dict]:
        """Messages whose clips are what this model knows them as, whatever they show: what follows does not care."""
        if self.native_video:
            return list(messages)
        return [
            {
                **message,
                "content": [{"type": "image"} if block["type"] == "video" else block for block in message["content"]],
            }
            for message in messages
        ]

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

    @cached_property
    def marks(self) -> dict[str, str]:
        """What stands in templated text for an ``image``, and for a ``video`` where the tokenizer or model has one."""
        named = self.tokenizer.convert_ids_to_tokens
        own = getattr(self.hf_model.config, "video_token_id", None)
        marks = {
            "image": getattr(self.processor, "image_token", None) or named(self.image_token_id),
            "video": getattr(self.processor, "video_token", None) or (own is not None and named(own)) or "",
        }
        return {kind: mark for kind, mark in marks.items() if mark}

    def placeholder_in(self, text: str) -> str:
        """What in a text would be taken for a picture or a clip; empty if nothing would."""
        tokens = self.tokenizer.convert_ids_to_tokens(sorted(self.media_token_ids))
        return next((mark for mark in (*self.marks.values(), *tokens) if mark in text), "")

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer should add its own first token: not where the template wrote it already."""
        return not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))

    def image_token_count(
        self, messages: Sequence[dict], images: Sequence[Image.Image], videos: Sequence[Clip] = ()
    ) -> int:
        """How many media tokens a prompt has: the length of a `Job.keep` mask."""
        return int(self.is_media(self.encode_prompt(messages, images, videos=videos).input_ids).sum())

    def positions(self, input_ids: Tensor, parts: Sequence[Part]) -> Tensor:
        """Positions of a prompt's tokens, and of one that follows.

        Args:
            input_ids: Shape: (P,).
            parts: what the processor made of its media, for families whose positions follow from grids.

        Returns:
            Shape: (A, P + 1).
        """
        return torch.arange(len(input_ids) + 1)[None]

    # ---- the forward -------------------------------------------------------------------------------------

    @cached_property
    def can_branch(self) -> bool:
        """Whether responses can share a row with their prompt: every layer is attention that takes a whole mask."""
        known = ("sdpa", "eager", _packing.NAME)
        return self.attention in known and set(self.layer_types) <= {"full_attention", "sliding_attention"}

    @cached_property
    def can_pack(self) -> bool:
        """Whether rows can stand in one sequence without padding: every layer is causal over the whole of a row."""
        causal = type(self).both_ways is Backbone.both_ways and set(self.layer_types) == {"full_attention"}
        return causal and self.attention in ("sdpa", _packing.NAME)

    @cached_property
    def allows_gaps(self) -> bool:
        """Whether only positions say how far apart tokens are, so that some may be missing in between, or added.

        A window counts the tokens of a row instead.
        """
        return set(self.layer_types) == {"full_attention"}

    def pack(self) -> None:
        """From now on, `run` takes packed rows too."""
        self.decoder.config._attn_implementation = _packing.NAME
        _packing.narrow(self.decoder.layers[-1])

    @property
    def attention(self) -> str:
        """The attention of the language model: ``sdpa``, ``eager``, ``flash_attention_2``..."""
        return self.decoder.config._attn_implementation

    @cached_property
    def layer_types(self) -> list[str]:
        """Kind of attention of each layer of the language model."""
        config = self.decoder.config
        uniform = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
        return getattr(config, "layer_types", None) or [uniform] * config.num_hidden_layers

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.hf_model.get_decoder()

    @property
    def tower(self) -> nn.Module:
        """The vision tower, without projector."""
        return next(getattr(self.hf_model.model, name) for name in _TOWERS if hasattr(self.hf_model.model, name))

    whole_view = 0
    """Where among the tiles of a picture the view of the whole is."""

    @property
    def projector(self) -> nn.Module:
        """What brings the tower's features into the language model's space."""
        modules = self.hf_model.named_modules()
        return next(module for name, module in modules if name.rpartition(".")[2] in _PROJECTOR_NAMES)

    @property
    def tower_parts(self) -> list[nn.Module]:
        """What the tower runs through before any of the projector: the modules whose work can be shared."""
        return [self.tower]

    def quantizable(self) -> Iterator[nn.Parameter]:
        """Weights that are in 4 bits where that is asked for: of the language model's linear layers, but its head."""
        for name, module in self.hf_model.named_modules():
            linear = isinstance(module, nn.Linear) and module is not self.head and self.part_of(name) == "language"
            if linear and not module.weight.requires_grad:
                yield module.weight

    @property
    def sight_trains(self) -> bool:
        """Whether any weight of tower or projector does."""
        return any(p.requires_grad and self.part_of(name) != "language" for name, p in self.model.named_parameters())

    def media_features(self, contexts: Sequence[Context]) -> list[Features | None]:
        """Run the tower once over the distinct media of ``contexts``; None where a context has none.

        Families with `clips_apart` run it once over the pictures, and then once over the clips, where there are any.
        """
        distinct = {context.media_key: context for context in contexts if context.media}
        found = self._look(list(distinct.values())) if distinct else []
        by_key = dict(zip(distinct, found, strict=True))
        return [by_key.get(context.media_key) for context in contexts]

    def _look(self, contexts: Sequence[Context]) -> list[Features]:
        """What the tower makes of each context's media."""
        output = self.hf_model.get_image_features(**self.merge_media([c.media for c in contexts]), return_dict=True)
        counts = [int(self.is_media(context.input_ids).sum()) for context in contexts]
        tokens = split(flat(output.pooler_output), counts)
        layers = [split(flat(layer), counts) for layer in getattr(output, "deepstack_features", None) or ()]
        return [Features(own, tuple(deep)) for own, *deep in zip(tokens, *layers, strict=True)]

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        """One vector a picture, to find pictures that look alike to this model; see `_looking.embed_images`."""
        return _looking.embed_images(self, images, batch_size)

    def with_noise(self, context: Context, noise: Noise) -> Context:
        """A prompt whose pictures are noised, as the tower gets them; see `_looking.with_noise`."""
        return replace(context, media=_looking.with_noise(self, context.media, noise))

    def pixel_noise(self, noise: Noise, pixels: Tensor) -> Tensor:
        """Standard normal numbers for the pixels of a prompt. Shape: that of ``pixels``."""
        return torch.from_numpy(noise.draw(pixels.shape))

    def blanks(self, contexts: Sequence[Context]) -> list[Context]:
        """Prompts of little and empty media, for who has to look though ``contexts`` have nothing to look at.

        With them the tower runs as often as it does anywhere else, whatever others look at.
        """
        return [] if any(context.media for context in contexts) else [self.blank_picture]

    @cached_property
    def blank_picture(self) -> Context:
        """A prompt with one small empty picture."""
        return self.encode_prompt([user_message("", images=1)], [_EMPTY], media_key="blank picture")

    @cached_property
    def blank_clip(self) -> Context:
        """A prompt with a clip of one small empty frame."""
        clip = Clip((_EMPTY,), (0.0,), (0,), 1.0)
        return self.encode_prompt([user_message("", videos=1)], media_key="blank clip", videos=[clip])

    def merge_media(self, media: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One call's inputs of the tower from those of several prompts, in order.

        Shape: first axes are concatenated, others padded with zeros to the largest (tiles that a picture lacks).
        """
        merged = {key: concatenated([each[key] for each in media]) for key in media[0]}
        return {k: v.to(self.device, self.dtype if v.is_floating_point() else v.dtype) for k, v in merged.items()}

    def run(
        self,
        input_ids: Tensor,
        features: Sequence[Features | None],
        mask: Tensor | dict[str, Tensor] | Packed,
        positions: Tensor,
        cache: Any = None,
        unseen: Sequence[Features] = (),
    ) -> Any:
        """Run the language model over rows of tokens, the features of their media in the media tokens' places.

        Args:
            input_ids: Shape: (R, T).
            features: of each row's prompt.
            mask: 1 at tokens that can be seen, (R, T), earlier ones of the cache included; or which token sees which,
                (R, 1, T, T), boolean, by layer type where the model has several; or the places of packed rows, where R
                is 1.
            positions: Shape: (A, R, T).
            cache: of an earlier call; a new one is filled if it is True.
            unseen: features that stand in no row. They change nothing, but are part of what is computed.

        Returns:
            transformers' output, with ``last_hidden_state``, (R, T, H), and ``past_key_values``.
        """
        is_media = self.is_media(input_ids)
        # A media token may lie beyond the vocabulary (Gemma); what is looked up in its place is overwritten.
        beyond = input_ids >= self.decoder.config.vocab_size
        embeds = self.hf_model.get_input_embeddings()(input_ids.masked_fill(beyond, self.pad_token_id))
        present = [f for f in features if f is not None]
        if present:
            tokens = torch.cat([f.tokens for f in present]).to(embeds.dtype)
            embeds = embeds.masked_scatter(is_media[..., None], tokens)
        for other in unseen:
            embeds = embeds + sum((0 * part).sum() for part in (other.tokens, *other.deepstack)).to(embeds.dtype)
        if self.embeds_need_grad and torch.is_grad_enabled() and not embeds.requires_grad:
            embeds.requires_grad_()
        return self.decoder(
            inputs_embeds=embeds,
            **(mask.inputs() if isinstance(mask, Packed) else {"attention_mask": mask}),
            position_ids=positions if len(positions) > 1 else positions[0],
            use_cache=cache is not None,
            past_key_values=None if cache is True else cache,
            **self.layer_inputs(is_media, present),
        )

    def layer_inputs(self, is_media: Tensor, features: Sequence[Features]) -> dict[str, Any]:
        """What the language model's layers want to know of the media besides their tokens. Shape: is_media (R, T)."""
        return {}

    def masks(self, input_ids: Tensor, branch: Tensor, order: Tensor, *, whole: bool) -> Tensor | dict[str, Tensor]:
        """Who sees whom, for `run`; see `mmalign.forward.Batch` for the tensors.

        A token sees the prompt and its own branch, up to itself. Nobody sees padding, or a token hidden like it.

        Args:
            whole: a mask of every pair, (R, 1, T, T), by layer type where there are several: rows have branches. Else
                which tokens can be seen, (R, T), from which the model makes its own masks for faster kernels.
        """
        if not whole:
            return (branch >= 0).long()
        window = getattr(self.decoder.config, "sliding_window", None)
        everywhere = torch.arange(branch.shape[1], device=branch.device)
        seen = visible(branch, everywhere) | self.both_ways(input_ids, branch)
        masks = {}
        for kind in sorted(set(self.layer_types)):
            near = order[:, None, :] > order[:, :, None] - window if kind == "sliding_attention" else True
            masks[kind] = self._for_attention(seen & near)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def both_ways(self, input_ids: Tensor, branch: Tensor) -> Tensor | bool:
        """Which tokens see each other whatever their order: none, but for families that say so. Shape: (R, T, T)."""
        return False

    def _for_attention(self, seen: Tensor) -> Tensor:
        if self.attention != "eager":
            return seen[:, None]
        hidden = torch.finfo(self.dtype).min
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill(~seen, hidden)[:, None]

    # ---- what one does with it ---------------------------------------------------------------------------

    def generate(
        self,
        jobs: Sequence[_generation.Job],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Callable[[str], bool] | None = None,
        batch_size: int | None = None,
        masking: str | None = None,
    ) -> list[str]:
        """Continue every job's prompt (and prefix), ``batch_size`` at a time; see `_generation.generate`."""
        return _generation.generate(
            self,
            jobs,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            batch_size=batch_size,
            masking=masking,
        )

    def choose(
        self, jobs: Sequence[_generation.Job], answers: Sequence[str], *, batch_size: int | None = None
    ) -> np.ndarray:
        """How likely each of ``answers`` is as the beginning of an answer, among them; see `_choice.choose`.

        Shape: (jobs, answers).
        """
        size = batch_size or max(1, len(jobs))
        starts = range(0, max(1, len(jobs)), size)
        return np.concatenate([_choice.choose(self, jobs[start : start + size], answers) for start in starts])

    def merge_adapter(self) -> float:
        """Fold the adapter into the weights, in place.

        Returns:
            The norm of what the weights' dtype rounds away of the update, as a share of the update's: weights of 16
            bits have no room for small ones.

        Raises:
            InputError: there is no adapter.
        """
        if not hasattr(self.model, "merge_and_unload"):
            raise InputError("no adapter to merge: this is a whole model", file=self.sources[0])
        lost = whole = 0.0
        for layer in self.model.modules():
            if hasattr(layer, "get_delta_weight"):
                base = layer.get_base_layer().weight
                weight = base.detach().float()
                update = sum(layer.get_delta_weight(name).detach().float() for name in layer.active_adapters)
                kept = (weight + update).to(base.dtype).float() - weight
                lost += float((kept - update).square().sum())
                whole += float(update.square().sum())
        self.model = self.model.merge_and_unload()
        return math.sqrt(lost / whole) if whole else 0.0

    def save(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a folder that plain transformers (or PEFT, for an adapter) loads, processor included."""
        self.model.save_pretrained(str(folder), state_dict=state_dict)
        self.processor.save_pretrained(str(folder))
        if self.trained_on is not None:
            _trained_on.write(folder, self.trained_on)


def flat(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Features however a family packs them, as one list. Shape: (..., H) or a list of such -> (N, H)."""
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.flatten(0, -2) for part in parts])


def split(features: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
    """Features for the media tokens that there are places for. Shape: (N, H) -> one (n, H) for each of ``counts``.

    Raises:
        InputError: there are more, or fewer.
    """
    if len(features) != sum(counts):
        found = f"{sum(counts)} places in the prompts, {len(features)} features"
        raise InputError(f"the processor's settings do not fit this model: {found}")
    return features.split(list(counts))


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Tensors put together along the first axis, the others padded with zeros to the largest; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [
            n for size, want in zip(reversed(part.shape[1:]), reversed(shape), strict=True) for n in (0, want - size)
        ]
        padded.append(nn.functional.pad(part, missing) if any(missing) else part)
    return torch.cat(padded)


def fingerprint_of(*sources: str | Path) -> str:
    """Changes whenever the weights or files of a model folder do; a hub name stands for itself."""
    return runs.fingerprint(*(part for source in sources for part in _identity_of(str(source))))


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
