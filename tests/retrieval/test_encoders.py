"""Vectors of pictures: by the tower of every family of models, and by image encoders of other makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.records import InputError, user_message
from mmalign.retrieval.encoders import Tower, load_encoder
from tests.families import FAMILIES, SIDE, build

SIZES = ((60, 60), (120, 50), (40, 110), (64, 64), (200, 100))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def backbone(request: pytest.FixtureRequest):
    return build(request.param)


class TestTower:
    def test_batches_change_nothing(self, backbone, pictures):
        vectors = backbone.embed_images(pictures, batch_size=5)
        assert vectors.shape[0] == len(pictures) and vectors.dtype == np.float32
        assert np.linalg.norm(vectors[0] - vectors[1]) > 0.1, "pictures differ"
        for size in (1, 2):
            np.testing.assert_allclose(backbone.embed_images(pictures, batch_size=size), vectors, atol=1e-5)
        turned = backbone.embed_images(pictures[::-1], batch_size=3)
        np.testing.assert_allclose(turned[::-1], vectors, atol=1e-5)
        assert backbone.embed_images([]).shape[0] == 0

    def test_is_of_the_tower_alone(self, backbone, pictures):
        """Neither projector nor language model moves it; the tower does."""
        before = backbone.embed_images(pictures[:2])
        saved = {name: weights.clone() for name, weights in backbone.model.named_parameters()}
        with torch.no_grad():
            for name, weights in backbone.model.named_parameters():
                if backbone.part_of(name) != "tower":
                    weights.add_(1.0)
        np.testing.assert_array_equal(backbone.embed_images(pictures[:2]), before)
        with torch.no_grad():
            for name, weights in backbone.model.named_parameters():
                weights.copy_(saved[name] * (1.1 if backbone.part_of(name) == "tower" else 1))
        assert np.abs(backbone.embed_images(pictures[:2]) - before).max() > 1e-3
        with torch.no_grad():
            for name, weights in backbone.model.named_parameters():
                weights.copy_(saved[name])

    def test_is_the_mean_of_what_the_projector_sees_of_the_whole(self, backbone, pictures):
        """Each picture alone, by the family's own words for tiles and patches."""
        seen = []
        handle = backbone.projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        for picture in pictures:
            context = backbone.encode_prompt([user_message("", images=1)], [picture])
            with torch.no_grad():
                backbone.media_features([context])
        handle.remove()
        vectors = backbone.embed_images(pictures)
        last = type(backbone).__name__ in ("InternVL", "SmolVLM")  # the view of the whole comes after its tiles
        for vector, features in zip(vectors, seen, strict=True):
            whole = features if features.dim() == 2 else features[-1 if last else 0]
            np.testing.assert_allclose(vector, whole.mean(0).numpy(), atol=1e-5)

    def test_a_hook_does_not_stay(self, backbone, pictures):
        hooks = len(backbone.projector._forward_pre_hooks)
        backbone.embed_images(pictures[:1])
        with pytest.raises((AttributeError, TypeError, ValueError)):
            backbone.embed_images([None])
        assert len(backbone.projector._forward_pre_hooks) == hooks


def test_tiles_are_not_looked_at() -> None:
    """The first tile of LLaVA-NeXT is the whole picture: a change in it alone is a change of the vector."""
    backbone = build("llava_next")
    wide = Image.new("RGB", (4 * SIDE, SIDE), "red")
    context = backbone.encode_prompt([user_message("", images=1)], [wide])
    assert context.media["pixel_values"].shape[1] > 1
    [vector] = backbone.embed_images([wide])
    [alone] = backbone.embed_images([wide.resize((SIDE, SIDE))])
    np.testing.assert_allclose(vector, alone, atol=1e-4)


# ---- other encoders --------------------------------------------------------------------------------------------------


def clip() -> tuple:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision, text = {**small, "image_size": 28, "patch_size": 14}, {**small, "vocab_size": 20, "eos_token_id": 1}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
    square = {"height": 28, "width": 28}
    return CLIPModel(config), CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=square), 8


def siglip() -> tuple:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**small, "image_size": 28, "patch_size": 14}, text_config={**small, "vocab_size": 20}
    )
    return SiglipModel(config), SiglipImageProcessorPil(size={"height": 28, "width": 28}), 16


def dinov2() -> tuple:
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    square = {"height": 28, "width": 28}
    return Dinov2Model(config), BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=square), 16


def vit() -> tuple:
    """Its pooler is saved with it, but those of models trained to classify are not: see the test."""
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**small, image_size=28, patch_size=14), add_pooling_layer=False)
    return model, ViTImageProcessorPil(size={"height": 28, "width": 28}), 16


def write(folder: Path, make) -> int:
    torch.manual_seed(0)
    model, processor, width = make()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn(weights.shape) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return width


@pytest.mark.parametrize("make", [clip, siglip, dinov2, vit], ids=lambda make: make.__name__)
def test_encoders_of_other_makes(make, tmp_path, pictures):
    width = write(tmp_path, make)
    encoder = load_encoder(str(tmp_path))
    vectors = encoder(pictures)
    assert vectors.shape == (len(pictures), width) and vectors.dtype == np.float32
    one_by_one = np.concatenate([encoder([picture]) for picture in pictures])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)
    assert np.linalg.norm(vectors[0] - vectors[1]) > 1e-3
    np.testing.assert_array_equal(load_encoder(str(tmp_path))(pictures), vectors)
    inputs = encoder.processor(images=pictures, return_tensors="pt")
    with torch.no_grad():
        if hasattr(encoder.model, "get_image_features"):
            expected = encoder.model.get_image_features(**inputs).pooler_output
        else:  # the class token, after the last norm
            expected = encoder.model(**inputs).last_hidden_state[:, 0]
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-6)


def test_identity(tmp_path):
    first, second = tmp_path / "clip", tmp_path / "dino"
    write(first, clip)
    write(second, dinov2)
    same = load_encoder(str(first)).identity()
    assert same == load_encoder(str(first)).identity()
    assert same != load_encoder(str(first), "bfloat16").identity()
    assert same["encoder"] != load_encoder(str(second)).identity()["encoder"]
    config = first / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"shortest_edge": 28', '"shortest_edge": 32'))
    changed = load_encoder(str(first)).identity()
    assert same["processor"] != changed["processor"]


def test_what_is_no_image_encoder(tmp_path, tiny_model):
    with pytest.raises(InputError, match="is a vision-language model: give it as --model"):
        load_encoder(str(tiny_model))
    with pytest.raises(InputError, match="cannot load an image encoder"):
        load_encoder(str(tmp_path))
    write(tmp_path / "clip", clip)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "clip" / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, tmp_path / "clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 of the model's weights, visual_projection.weight"):
        load_encoder(str(tmp_path / "clip"))


def test_the_tower_s_identity(tiny_model, moved_model):
    from mmalign import backbones

    first, second = (Tower(backbones.load(model, device="cpu")).identity() for model in (tiny_model, moved_model))
    assert first["encoder"] != second["encoder"] and first["processor"] == second["processor"]
