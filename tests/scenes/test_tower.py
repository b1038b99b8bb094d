from __future__ import annotations

import numpy as np
import torch

from mmalign.scenes.render import render
from mmalign.scenes.things import COLORS, SHAPES, Scene, Thing
from mmalign.scenes.tiny import build_model, build_processor, build_tokenizer, world_text
from mmalign.scenes.tower import PatchWords, TowerBatches, normalised, patch_labels


def test_patches_are_labelled_by_what_is_seen_in_them():
    back = Thing("red", "square", "large", 16, 16, 8)
    front = Thing("blue", "circle", "large", 28, 16, 8)
    labels = patch_labels(Scene((back, front), 0, 0)).reshape(8, 8, 2)
    red_square = [1 + list(COLORS).index("red"), 1 + SHAPES.index("square")]
    blue_circle = [1 + list(COLORS).index("blue"), 1 + SHAPES.index("circle")]
    assert labels[1, 1].tolist() == labels[2, 1].tolist() == red_square
    assert labels[1, 3].tolist() == labels[2, 3].tolist() == blue_circle
    assert not labels[5:].any()


def test_pictures_are_normalised_as_by_the_processor():
    from PIL import Image

    processor = build_processor(build_tokenizer(world_text(10)))
    picture = render(Scene((Thing("red", "star", "large", 30, 30, 9),), 0, 0))
    inputs = processor(images=Image.fromarray(picture), text="<image>", return_tensors="pt")
    torch.testing.assert_close(normalised([picture]), inputs["pixel_values"])


def test_steps_of_seeing_lower_the_loss_and_leave_the_language_model_alone():
    tokenizer = build_tokenizer(world_text(50))
    model = build_model(tokenizer, seed=0)
    words = PatchWords(model, tokenizer)
    layers = model.model.language_model.layers
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    optimizer = torch.optim.AdamW(words.weights().values(), lr=3e-3)
    batch = TowerBatches(seed=0, steps=1, size=8)[0]
    losses = []
    for _ in range(25):
        loss = words.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_colors_and_shapes_are_single_tokens():
    tokenizer = build_tokenizer(world_text(100))
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in (*COLORS, *SHAPES))
    rows = PatchWords(build_model(tokenizer, 0), tokenizer).words
    assert [len(row) for row in rows] == [1 + len(COLORS), 1 + len(SHAPES)]
    assert np.unique(torch.cat([row[1:] for row in rows])).size == len(COLORS) + len(SHAPES)
