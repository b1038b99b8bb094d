"""Expected memory of real models: the tables of docs/recipes.md.

    python docs/results/memory.py

Models are built from their published dimensions without weights, so nothing is downloaded.
"""

from __future__ import annotations

import torch
from transformers import AutoModelForImageTextToText, LlavaConfig, Qwen2_5_VLConfig

from mmalign.backbones import Backbone, backbone_class
from mmalign.training import memory
from mmalign.training.memory import Run, Shape
from mmalign.training.options import ModelOptions
from mmalign.training.session import prepare


def qwen(hidden: int, layers: int, heads: int, keys: int, inner: int, vocabulary: int, tied: bool) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL: https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/blob/main/config.json and its 3 B sister."""
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": keys,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
        },
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": hidden},
        tie_word_embeddings=tied,
    )


LLAVA = LlavaConfig(
    vision_config={
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
    text_config={"model_type": "llama", "vocab_size": 32064},
)

MODELS = {
    "Qwen2.5-VL 3 B": (qwen(2048, 36, 16, 2, 11008, 151936, True), Shape(tokens=1600, responses=400, patches=4900)),
    "Qwen2.5-VL 7 B": (qwen(3584, 28, 28, 4, 18944, 152064, False), Shape(tokens=1600, responses=400, patches=4900)),
    "LLaVA-1.5 7 B": (LLAVA, Shape(tokens=1050, responses=400, patches=576)),
}
"""Micro-batches of one pair: a picture of a megapixel or so (LLaVA: 336 x 336), two responses of 200 tokens."""

RECIPES = {
    "QLoRA, 1 GPU": (ModelOptions(model="", lora=True, load_in_4bit=True), {"load_in_4bit": True}),
    "LoRA, 1 GPU": (ModelOptions(model="", lora=True), {}),
    "LoRA, 8 GPUs, ZeRO-3": (ModelOptions(model="", lora=True), {"deepspeed": True, "zero": 3, "processes": 8}),
    "full, 8 GPUs, ZeRO-3": (
        ModelOptions(model=""),
        {"deepspeed": True, "zero": 3, "processes": 8, "reference": "copy"},
    ),
    "full, 8 GPUs, ZeRO-3, precomputed": (ModelOptions(model=""), {"deepspeed": True, "zero": 3, "processes": 8}),
}


class Silent:
    """Stands in for a processor, which sizes do not need."""

    tokenizer, chat_template = None, ""


def main() -> None:
    names = ("weights", "reference", "gradients", "optimiser", "activations", "vocabulary")
    print("| model | recipe | " + " | ".join(names) + " | together |")
    print("| --- " * (len(names) + 3) + "|")
    for model, (config, shape) in MODELS.items():
        for recipe, (options, how) in RECIPES.items():
            with torch.device("meta"):
                bare = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
            backbone: Backbone = backbone_class(config.model_type)(bare, Silent())
            prepare(backbone, options)
            sizes = memory.estimate(backbone, Run(bf16=True, checkpointing=True, **how), shape)
            cells = [f"{sizes[name] / memory.GIB:.1f}" for name in names] + [f"{sum(sizes.values()) / memory.GIB:.0f}"]
            print(f"| {model} | {recipe} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
