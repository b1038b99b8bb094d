"""Builds an untrained tiny VLM offline: a LLaVA of 1.8 million parameters, with tokenizer, processor, chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mmalign.scenes.clips import sample_clip
from mmalign.scenes.language import clip_exchanges, scene_exchanges
from mmalign.scenes.things import SIDE, Draw
from mmalign.scenes.world import sample_scene

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

PATCH = 8  # pixels; 64 image tokens a picture
VOCABULARY = 512  # at most: the words of this world need fewer
IMAGE, PAD, USER, ASSISTANT, END = SPECIAL_TOKENS = ("<image>", "<pad>", "<|user|>", "<|assistant|>", "<|end|>")

# A turn is its role, its blocks in order and <|end|>. So the prompt with its generation prompt is a prefix of the
# prompt with the answer, in characters and, since roles and ends are special tokens, in tokens.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for block in message['content'] -%}
{%- if block['type'] == 'image' -%}
{{- '<image>' -}}
{%- elif block['type'] == 'text' -%}
{{- block['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def world_text(count: int = 2000) -> Iterator[str]:
    """What is asked and answered in the training split, for the tokenizer to learn its words from."""
    for index in range(count):
        exchanges = scene_exchanges(sample_scene("train", 0, index), Draw("text", index))
        exchanges += clip_exchanges(sample_clip("train", 0, index), Draw("text", index))
        for exchange in exchanges:
            yield exchange.question
            yield exchange.answer


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from ``texts``; all 256 bytes are in its alphabet, so that any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """LLaVA's processor, which resizes any picture to the square that the tower takes and crops nothing."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    square = {"height": SIDE, "width": SIDE}
    image_processor = CLIPImageProcessorPil(
        size=square,
        crop_size=square,  # unused without a crop, but the processor counts image tokens by it
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the tower's class token, which "default" drops again
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model, initialised from ``seed``."""
    import torch
    from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        initializer_range=128**-0.5,  # the usual 0.02 is for widths in the thousands: here it would be next to nothing
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(max_new_tokens=128, **ids)
    return model
