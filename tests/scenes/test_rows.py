from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.records import assistant_message, user_message
from mmalign.scenes.language import scene_exchanges
from mmalign.scenes.render import render
from mmalign.scenes.rows import Batches, Row, blindfold, collate
from mmalign.scenes.things import Draw
from mmalign.scenes.tiny import IMAGE, build_model, build_processor, build_tokenizer, world_text
from mmalign.scenes.tower import TowerBatches
from mmalign.scenes.train_tiny import Lessons, answer_loss
from mmalign.scenes.world import sample_scene


@pytest.fixture(scope="module")
def untrained():
    tokenizer = build_tokenizer(world_text(50))
    return build_model(tokenizer, seed=0).eval(), build_processor(tokenizer)


def test_each_branch_sees_just_what_it_would_see_alone(untrained):
    """Logits of a branch in a shared row equal those of its own conversation through the plain processor."""
    model, processor = untrained
    scenes = [sample_scene("train", 0, index) for index in range(2)]
    asked = [scene_exchanges(scene, Draw(0)) for scene in scenes]
    rows = [Row.build(exchanges, 1, processor.tokenizer) for exchanges in asked]
    batch = collate(rows, np.stack([render(scene) for scene in scenes]), processor.tokenizer.pad_token_id)
    answer = batch.pop("answer")
    with torch.no_grad():
        shared = model(**batch).logits
    for row, (scene, exchanges) in enumerate(zip(scenes, asked, strict=True)):
        for number, exchange in enumerate(exchanges, start=1):
            talk = [user_message(exchange.question, images=1), assistant_message(exchange.answer)]
            inputs = processor(
                images=Image.fromarray(render(scene)), text=processor.apply_chat_template(talk), return_tensors="pt"
            )
            with torch.no_grad():
                alone = model(**inputs).logits[0]
            place = np.flatnonzero(rows[row].segment == number)
            assert torch.equal(batch["input_ids"][row, place], inputs["input_ids"][0, -len(place) :])
            torch.testing.assert_close(shared[row, place], alone[-len(place) :], atol=1e-4, rtol=1e-4)
            assert answer[row, place].sum() == len(processor.tokenizer(exchange.answer).input_ids) + 1


def test_batches_are_the_same_for_one_seed_and_mix_clips_in(untrained):
    tokenizer = untrained[1].tokenizer
    batches = Batches(tokenizer, seed=0, steps=4, size=6, clip_every=2)
    assert [len(batches[step]["pixel_values"]) for step in range(4)] == [6, 6, 6, 8]
    more = Batches(tokenizer, seed=0, steps=4, size=6, clip_every=4, clip_run=3, ramp=False)
    assert [len(more[step]["pixel_values"]) for step in range(4)] == [6, 8, 8, 8]
    again = Batches(tokenizer, seed=0, steps=4, size=6, clip_every=2)[2]
    assert all(torch.equal(again[name], tensor) for name, tensor in batches[2].items())
    assert not torch.equal(batches[0]["pixel_values"], batches[2]["pixel_values"])


def test_lessons_in_seeing_come_along_and_never_repeat(untrained):
    speech = Batches(untrained[1].tokenizer, seed=0, steps=4, size=2, clip_every=0)
    lessons = Lessons(speech, TowerBatches(seed=0, steps=4, size=3, first=2), every=2)
    sights = [lessons[step][1] for step in range(4)]
    assert [sight is not None for sight in sights] == [True, False, True, False]
    earlier = TowerBatches(seed=0, steps=2, size=3)
    pictures = [sights[0][0], sights[2][0], earlier[0][0], earlier[1][0]]
    assert not any(torch.equal(a, b) for number, a in enumerate(pictures) for b in pictures[:number])
    assert all(lesson[1] is None for lesson in (Lessons(speech, earlier, every=0)[step] for step in range(4)))


def test_ten_steps_lower_the_loss(untrained):
    model, processor = untrained
    batch = Batches(processor.tokenizer, seed=0, steps=1, size=4, clip_every=0)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = answer_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_blindfold_hides_image_tokens_of_some_rows_and_nothing_else(untrained):
    tokenizer = untrained[1].tokenizer
    scenes = [sample_scene("train", 0, index) for index in range(20)]
    rows = [Row.build(scene_exchanges(scene, Draw(0)), 1, tokenizer) for scene in scenes]
    batch = collate(rows, np.stack([render(scene) for scene in scenes]), tokenizer.pad_token_id)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    blindfold(batch, image, [Draw("blind", row) for row in range(len(rows))])
    changed = batch["attention_mask"] != before["attention_mask"]
    blind = changed.flatten(1).any(dim=1)
    assert 0 < blind.sum() < len(rows) / 2
    for row in blind.nonzero()[:, 0]:
        hidden = changed[row, 0].any(dim=0)
        assert (batch["input_ids"][row, hidden] == image).all()
        assert hidden.sum() > 40
        last = int(batch["answer"][row].nonzero()[-1])  # the last answer sees few of the 64 image tokens
        assert batch["attention_mask"][row, 0, last][batch["input_ids"][row] == image].sum() < 24
    assert batch["attention_mask"].any(dim=-1).all()
    assert all(torch.equal(batch[name], tensor) for name, tensor in before.items() if name != "attention_mask")
