"""A tiny random model of every family, with its real processor, built offline.

Sizes are small and odd, weights are wider than the libraries' defaults: at those nothing is sensitive to anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from mmalign.backbones import Backbone, backbone_class
from mmalign.backbones._processors import UnreadClips, of_pictures

HIDDEN, LAYERS, SIDE = 32, 3, 56
WORDS = [f" {color} {shape}" for color in ("red", "blue", "green") for shape in ("circle", "square", "triangle")]

END = "<|end|>"
TEMPLATE = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- for block in message['content'] -%}
{%- if block['type'] == 'image' -%}{{- 'PICTURE' -}}
{%- elif block['type'] == 'video' -%}{{- 'CLIP' -}}
{%- else -%}{{- block['text'] -}}{%- endif -%}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def tokenizer(*, end: str = END, **special: str) -> Any:
    """Byte-level BPE of a few words; ``special``: what the family's processor expects the tokenizer to know."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    marks = ["<pad>", "<|user|>", "<|assistant|>", end, *special.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    built.train_from_iterator(WORDS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token=end, pad_token="<pad>", extra_special_tokens=special
    )


def build(family: str, seed: int = 0, native: bool = False, **language: Any) -> Backbone:
    """The backbone of a tiny model.

    Args:
        native: show it clips through its own video processor, which needs torchvision.
        language: options of its language model's configuration.
    """
    torch.manual_seed(seed)
    model, processor = FAMILIES[family](language, _read if native else _unread)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            spread = 0.15 if weights.dim() > 1 else 0.3
            weights.add_(torch.randn(weights.shape, generator=generator) * spread)
    return backbone_class(family)(model.eval(), processor, [], native_video=native)


Clips = Callable[..., Any]
"""Makes the video part of a processor: given the name of its class, and its settings."""


def _read(name: str, **settings: Any) -> Any:
    return getattr(transformers, name)(**settings)


def _unread(name: str, **settings: Any) -> Any:
    return UnreadClips({"video_processor_type": name, **settings})


def _processor(cls: type, *arguments: Any, picture: str, clip: str = "", end: str = END, **options: Any) -> Any:
    """A family's processor."""
    template = TEMPLATE.replace("PICTURE", picture).replace("CLIP", clip).replace(END, end)
    return of_pictures(cls)(*arguments, chat_template=template, **options)


def _text(words: Any, language: dict, **options: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        **options,
        **language,
    }


def _vision(**options: Any) -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        **options,
    }


def _square(side: int = SIDE) -> dict[str, int]:
    return {"height": side, "width": side}


def _llava(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer(image_token="<image>")
    pixels = CLIPImageProcessorPil(size=_square(), crop_size=_square())
    processor = _processor(
        LlavaProcessor,
        pixels,
        words,
        picture="<image>",
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision()),
        text_config=LlamaConfig(**_text(words, language)),
        image_token_id=words.image_token_id,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
        MistralConfig,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    words = tokenizer(image_token="<image>")
    grids = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    pixels = LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_square(), image_grid_pinpoints=grids)
    processor = _processor(
        LlavaNextProcessor,
        pixels,
        words,
        picture="<image>",
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_vision()),
        text_config=MistralConfig(**_text(words, {"sliding_window": None, "head_dim": 8, **language})),
        image_token_id=words.image_token_id,
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _llava_next_video(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
        LlavaNextVideoProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    words = tokenizer(image_token="<image>", video_token="<video>")
    grids = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    pixels = LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_square(), image_grid_pinpoints=grids)
    processor = _processor(
        LlavaNextVideoProcessor,
        clips("LlavaNextVideoVideoProcessor", size={"shortest_edge": SIDE}, crop_size=_square()),
        pixels,
        words,
        picture="<image>",
        clip="<video>",
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**_vision()),
        text_config=LlamaConfig(**_text(words, language)),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    return LlavaNextVideoForConditionalGeneration(config), processor


def _llava_onevision(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    words = tokenizer(image_token="<image>", video_token="<video>")
    grids = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    pixels = LlavaOnevisionImageProcessorPil(size=_square(), image_grid_pinpoints=grids)
    processor = _processor(
        LlavaOnevisionProcessor,
        pixels,
        words,
        clips("LlavaOnevisionVideoProcessor", size=_square()),
        picture="<image>",
        clip="<video>",
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_vision(vision_use_head=False)),
        text_config=Qwen2Config(**_text(words, language)),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


_QWEN_MARKS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN_PLACEHOLDERS = {
    "picture": "<|vision_start|><|image_pad|><|vision_end|>",
    "clip": "<|vision_start|><|video_pad|><|vision_end|>",
}


def _qwen_ids(words: Any) -> dict[str, int]:
    return {
        "image_token_id": words.image_token_id,
        "video_token_id": words.video_token_id,
        "vision_start_token_id": words.vision_start_token_id,
        "vision_end_token_id": words.vision_end_token_id,
    }


def _qwen2_5_vl(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer(**_QWEN_MARKS)
    pixels = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 12})
    frames = clips("Qwen2VLVideoProcessor", size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 6})
    processor = _processor(Qwen2_5_VLProcessor, pixels, words, frames, **_QWEN_PLACEHOLDERS)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=_text(words, language, rope_parameters=rope), **_qwen_ids(words)
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer(**_QWEN_MARKS)
    pixels = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 12}, patch_size=16, merge_size=2
    )
    frames = clips("Qwen3VLVideoProcessor", size={"shortest_edge": 2 * 32 * 32, "longest_edge": 32 * 32 * 24})
    processor = _processor(Qwen3VLProcessor, pixels, words, frames, **_QWEN_PLACEHOLDERS)
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 1e4}
    config = Qwen3VLConfig(
        vision_config=vision, text_config=_text(words, language, head_dim=8, rope_parameters=rope), **_qwen_ids(words)
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _smolvlm(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    marks = [f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]
    end = "<end_of_utterance>"  # of the template that its processor has for clips
    words = tokenizer(
        end=end,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        video_token="<video>",
        **{mark.strip("<>"): mark for mark in marks},
    )
    pixels = SmolVLMImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    frames = clips(
        "SmolVLMVideoProcessor",
        size={"longest_edge": 2 * SIDE},
        max_image_size={"longest_edge": SIDE},
        num_frames=8,
        fps=1,
    )
    processor = _processor(SmolVLMProcessor, pixels, words, frames, picture="<image>", end=end, image_seq_len=4)
    config = SmolVLMConfig(
        vision_config=_vision(),
        text_config=LlamaConfig(**_text(words, language)),
        image_token_id=words.image_token_id,
        scale_factor=2,
        pad_token_id=words.pad_token_id,
    )
    return SmolVLMForConditionalGeneration(config), processor


def _internvl(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor, Qwen2Config
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    pixels = GotOcr2ImageProcessorPil(size=_square(), crop_to_patches=True, min_patches=1, max_patches=3)
    frames = clips("InternVLVideoProcessor", size=_square())
    processor = _processor(
        InternVLProcessor, pixels, words, frames, picture="<IMG_CONTEXT>", clip="<video>", image_seq_length=4
    )
    vision = _vision(image_size=[SIDE, SIDE], patch_size=[14, 14])
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**_text(words, language)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
    )
    return InternVLForConditionalGeneration(config), processor


def _gemma3(language: dict, clips: Clips) -> tuple[nn.Module, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor, SiglipVisionConfig
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    words = tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    pixels = Gemma3ImageProcessorPil(size=_square())
    processor = _processor(Gemma3Processor, pixels, words, picture="<start_of_image>", image_seq_length=4)
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**_vision(vision_use_head=False)),
        text_config=_text(words, {"sliding_window": 9, "layer_types": kinds, "head_dim": 8, **language}),
        mm_tokens_per_image=4,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    return Gemma3ForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[dict], tuple[nn.Module, Any]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_next_video": _llava_next_video,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "gemma3": _gemma3,
}
