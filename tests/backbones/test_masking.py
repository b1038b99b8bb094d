"""Hidden image tokens, taken out of the row or out of sight: the same logits, for every family.

The oracle is transformers with the whole prompt, one row, no cache, and a mask that says which token sees which.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.backbones import Backbone, Job
from mmalign.backbones._reading import Prompt, Read, prefix_ids, prompts_of, shares
from mmalign.media.noise import Noise
from mmalign.records import user_message
from tests.families import FAMILIES, LAYERS, build

WITHOUT_WINDOWS = {"gemma3": {"layer_types": ["full_attention"] * LAYERS}}
GOES_ON = [40, 41, 42]
"""Tokens that are read one by one after prompt and prefix."""


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def backbone(request) -> Backbone:
    """Without windows: there, both ways of hiding are the same."""
    return build(request.param, **WITHOUT_WINDOWS.get(request.param, {}))


@pytest.fixture(scope="module")
def windowed() -> Backbone:
    backbone = build("gemma3")
    assert set(backbone.layer_types) == {"sliding_attention", "full_attention"}
    return backbone


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def jobs(backbone: Backbone, keeping: float, seed: int = 0) -> list[Job]:
    """Uneven: one picture or two, with and without a prefix, and two jobs that see the same."""
    one, two = picture(seed, 60, 60), picture(seed + 1, 120, 50)
    asked = [
        Job([user_message("What is here?", images=1)], (one,), key="one", seed=1),
        Job([user_message("What is here?", images=1)], (one,), "A red circle and a", key="one", seed=2),
        Job([user_message("And in both of these?", images=2)], (two, one), "Blue", seed=3),
    ]
    random = np.random.default_rng(9)
    draws = [random.random(backbone.image_token_count(job.messages, job.images)) for job in (asked[0], asked[2])]
    return [replace(job, keep=draws[which] < keeping) for job, which in zip(asked, (0, 0, 1), strict=True)]


def read(backbone: Backbone, asked: list[Job], prompts: list[Prompt]) -> torch.Tensor:
    """Logits after the prefix and after each token that follows. Shape: (R, tokens, V)."""
    prefixes = [prefix_ids(backbone, job) for job in asked]
    with torch.inference_mode():
        state = Read.of(backbone, prompts, prefixes)
        found = [state.logits(backbone)]
        for token in GOES_ON:
            state = state.after(backbone, torch.full((len(asked),), token))
            found.append(state.logits(backbone))
    return torch.stack(found, 1)


def logits(backbone: Backbone, asked: list[Job], masking: str | None) -> torch.Tensor:
    return read(backbone, asked, prompts_of(backbone, asked, masking=masking))


def oracle(backbone: Backbone, job: Job) -> torch.Tensor:
    """As `read`, by transformers alone. Shape: (tokens, V)."""
    context = backbone.encode_prompt(job.messages, job.images)
    prefix = prefix_ids(backbone, job)
    ids = torch.cat([context.input_ids, torch.tensor([*prefix, *GOES_ON], dtype=torch.long)])
    added = context.next_position + torch.arange(len(ids) - len(context.input_ids))
    positions = torch.cat([context.positions, added.expand(len(context.positions), -1)], 1)
    image = (ids == backbone.image_token_id).nonzero()[:, 0]
    place = torch.arange(len(ids))
    sees = place <= place[:, None]
    if backbone.hf_model.config.model_type == "gemma3":  # images of four tokens, which see each other
        number = torch.full((len(ids),), -1)
        number[image] = torch.arange(len(image)) // 4
        sees |= (number == number[:, None]) & (number >= 0)
    sees[:, image[~torch.from_numpy(job.keep)]] = False
    sees |= torch.eye(len(ids)).bool()  # a token that is hidden sees something too; nobody looks at it
    masks = {"full_attention": sees}
    if "sliding_attention" in backbone.layer_types:
        masks["sliding_attention"] = sees & (place > place[:, None] - backbone.decoder.config.sliding_window)
    masks = {kind: torch.where(mask, 0.0, -1e30)[None, None] for kind, mask in masks.items()}
    with torch.inference_mode():
        found = backbone.hf_model(
            input_ids=ids[None],
            **context.media,
            attention_mask=masks if backbone.hf_model.config.model_type == "gemma3" else masks["full_attention"],
            position_ids=positions[:, None] if len(positions) > 1 else positions,
        ).logits[0]
    return found[-1 - len(GOES_ON) :]


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hidden_tokens_are_those_of_a_whole_mask(backbone):
    asked = jobs(backbone, 0.4)
    expected = torch.stack([oracle(backbone, job) for job in asked])
    assert_equal(logits(backbone, asked, "mask"), expected)
    assert_equal(logits(backbone, asked, "drop"), expected)
    seeing = torch.stack([oracle(backbone, replace(job, keep=np.ones_like(job.keep))) for job in asked])
    assert ((expected - seeing).abs().amax((1, 2)) > 0.05).all()


def test_it_shows_when_positions_move_or_other_tokens_are_kept(backbone):
    asked = jobs(backbone, 0.4)
    right = logits(backbone, asked, "drop")
    moved = [
        replace(p, positions=torch.arange(len(p.input_ids)).expand_as(p.positions), next_position=len(p.input_ids))
        for p in prompts_of(backbone, asked, masking="drop")
    ]
    assert ((read(backbone, asked, moved) - right).abs().amax((1, 2)) > 0.01).all()
    others = [replace(job, keep=np.roll(job.keep, 1)) for job in asked]
    assert ((logits(backbone, others, "drop") - right).abs().amax((1, 2)) > 0.01).all()


@pytest.mark.parametrize("keeping", [0.0, 1.0])
def test_none_and_all(backbone, keeping):
    asked = jobs(backbone, keeping)
    assert_equal(logits(backbone, asked, "drop"), logits(backbone, asked, "mask"))
    if keeping:
        assert_equal(logits(backbone, asked, None), logits(backbone, [replace(job, keep=None) for job in asked], None))


@pytest.mark.parametrize("masking", ["drop", "mask"])
def test_a_blind_model_gives_the_same_for_any_picture_of_that_size(backbone, masking):
    blind, other = (logits(backbone, jobs(backbone, 0.0, seed), masking) for seed in (0, 100))
    assert_equal(blind, other)
    seeing, other = (logits(backbone, jobs(backbone, 1.0, seed), masking) for seed in (0, 100))
    assert ((seeing - other).abs().amax((1, 2)) > 0.01).all()


def test_left_out_they_are_not_read(backbone, monkeypatch):
    asked = jobs(backbone, 0.4)
    counts = []
    plain = backbone.run
    monkeypatch.setattr(backbone, "run", lambda ids, *rest, **o: counts.append(ids.numel()) or plain(ids, *rest, **o))
    for masking in ("mask", "drop"):
        logits(backbone, asked[:1], masking)
    hidden = int((~asked[0].keep).sum())
    assert hidden > 1 and counts[0] - counts[len(GOES_ON) + 1] == hidden


def test_texts_are_the_same_either_way_and_in_any_batch(backbone):
    asked = jobs(backbone, 0.4)
    expected = backbone.generate(asked, max_new_tokens=6, temperature=1.0, masking="mask")
    for batch_size in (1, 2, None):
        assert backbone.generate(asked, max_new_tokens=6, temperature=1.0, batch_size=batch_size) == expected


def test_a_prompt_of_several_rows_is_read_once_and_gives_the_same(backbone, monkeypatch):
    """Whatever is hidden; prefixes of uneven lengths and none stand behind it."""
    one = jobs(backbone, 0.4)[0]
    for keep in (None, one.keep):
        asked = [replace(one, keep=keep, prefix=prefix) for prefix in ("", "A red", "Blue circle and", "Red")]
        prompts = prompts_of(backbone, asked)
        prefixes = [prefix_ids(backbone, job) for job in asked]
        apart = [replace(prompt) for prompt in prompts]
        assert len(set(prompts)) == 1 and shares(backbone, prompts, prefixes)
        assert len(set(apart)) == 4 and not shares(backbone, apart, prefixes)
        assert_equal(read(backbone, asked, prompts), read(backbone, asked, apart))


# ---- windows ----------------------------------------------------------------------------------------------------


def test_windows_count_tokens_so_none_is_left_out(windowed):
    asked = jobs(windowed, 0.4)
    assert not windowed.allows_gaps
    expected = torch.stack([oracle(windowed, job) for job in asked])
    assert_equal(logits(windowed, asked, None), expected)
    assert_equal(logits(windowed, asked, "mask"), expected)
    with pytest.raises(ValueError, match="drop where no layer has a window"):
        logits(windowed, asked, "drop")
    with pytest.raises(ValueError, match="masking 'blind'"):
        logits(windowed, asked, "blind")


def test_it_shows_when_windows_count_what_is_left(windowed):
    """Control: what would come of leaving tokens out there."""
    asked = jobs(windowed, 0.4)
    right = logits(windowed, asked, "mask")
    short = [
        prompt.hiding(job.keep, windowed.is_media(prompt.input_ids), drop=True)
        for prompt, job in zip(prompts_of(windowed, [replace(j, keep=None) for j in asked]), asked, strict=True)
    ]
    assert (read(windowed, asked, short) - right).abs().max() > 0.01


def test_keep_must_fit_the_prompt(backbone):
    one = jobs(backbone, 0.4)[0]
    with pytest.raises(ValueError, match="keep has 3 entries"):
        backbone.generate([replace(one, keep=np.ones(3, bool))], max_new_tokens=1)


# ---- noise ------------------------------------------------------------------------------------------------------


def test_noise_is_on_the_pixels_that_the_tower_gets(backbone, monkeypatch):
    """Its share and its spread, tile by tile; and nothing where a tile is nothing."""
    one = jobs(backbone, 1.0)[0]
    context = backbone.encode_prompt(one.messages, one.images)
    noise = Noise(500, seed=3)
    plain, noised = context.media["pixel_values"], backbone.with_noise(context, noise).media["pixel_values"]
    added = (noised - 0.7455359710550751**0.5 * plain) / (1 - 0.7455359710550751) ** 0.5
    spread = 4 / added.numel() ** 0.5
    assert abs(added.mean()) < 2 * spread and added.std() == pytest.approx(1, abs=2 * spread)
    assert torch.equal(backbone.with_noise(context, Noise(0, seed=3)).media["pixel_values"], plain)
    torch.testing.assert_close(backbone.with_noise(context, noise).media["pixel_values"], noised, rtol=0, atol=0)
    assert not torch.equal(backbone.with_noise(context, Noise(500, seed=4)).media["pixel_values"], noised)
    if plain.dim() > 3:
        empty = replace(context, media={"pixel_values": torch.cat([plain, torch.zeros_like(plain)], plain.dim() - 4)})
        filled = backbone.with_noise(empty, noise).media["pixel_values"].flatten(-3).any(-1).flatten()
        assert filled.sum() * 2 == len(filled)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_still_picture_is_noised_once_for_all_of_a_patch_s_times(family):
    backbone = build(family)
    one = jobs(backbone, 1.0)[0]
    context = backbone.encode_prompt(one.messages, one.images)
    size = backbone.hf_model.config.vision_config.patch_size
    for pixels in (context.media["pixel_values"], backbone.with_noise(context, Noise(500, 1)).media["pixel_values"]):
        first, second = pixels.view(len(pixels), 3, 2, size, size).unbind(2)
        assert torch.equal(first, second) and not torch.equal(first[:, 0], first[:, 1])


def test_noise_changes_what_is_read_and_is_the_job_s_own(backbone):
    """A job's noise is the same in any batch, and beside jobs of the same key that have another or none."""
    clean = replace(jobs(backbone, 1.0)[1], keep=None)
    asked = [clean, replace(clean, noise=Noise(900, 1)), replace(clean, noise=Noise(900, 2))]
    together = logits(backbone, asked, None)
    for row, job in zip(together, asked, strict=True):
        assert_equal(row, logits(backbone, [job], None)[0])
    for one, other in ((0, 1), (1, 2)):
        assert (together[one] - together[other]).abs().max() > 0.01
