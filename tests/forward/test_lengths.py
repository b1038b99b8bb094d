"""Records that are too long: media are never cut, and what happens is counted."""

from __future__ import annotations

import pytest
import torch

from mmalign.forward import Batch, Encoder, Engine
from mmalign.records import InputError, RecordFile
from tests.families import build

VIEWS = ("chosen", "rejected")


@pytest.fixture(scope="module")
def backbone():
    return build("llava")


@pytest.fixture(scope="module")
def records(pairs):
    return RecordFile(pairs)


def encode(backbone, records, index, *limit):
    return Encoder(backbone, VIEWS, *limit)(records[index], records.media_root)


def test_shorten_cuts_responses_and_nothing_else(backbone, records):
    whole = encode(backbone, records, 1)
    limit = whole.length - 3
    cut = encode(backbone, records, 1, limit, "shorten")
    assert cut.fate == "shortened"
    assert cut.counted
    assert cut.length == limit
    assert torch.equal(cut.contexts[""].input_ids, whole.contexts[""].input_ids)
    for name in VIEWS:
        ((before,), (after,)) = (encoded.responses[name] for encoded in (whole, cut))
        assert torch.equal(after.input_ids, before.input_ids[: len(after.input_ids)])
        assert len(after.spans) == len(after.input_ids)
    assert encode(backbone, records, 1, whole.length, "shorten").fate == ""


def test_a_prompt_that_leaves_no_room_is_dropped_not_cut(backbone, records):
    prompt = len(encode(backbone, records, 1).contexts[""].input_ids)
    assert encode(backbone, records, 1, prompt + 1, "shorten").fate == "shortened"
    dropped = encode(backbone, records, 1, prompt, "shorten")
    assert dropped.fate == "dropped"
    assert not dropped.counted


def test_error_says_how_long(backbone, records):
    length = encode(backbone, records, 1).length
    with pytest.raises(InputError, match=f"is {length} tokens long, more than --max_length 20"):
        encode(backbone, records, 1, 20, "error")


def test_dropped_records_are_counted_and_change_nothing_else(backbone, records):
    limit = encode(backbone, records, 0).length  # of one picture; record 1 has two
    encoded = [encode(backbone, records, i, limit, "drop") for i in (0, 1)]
    batch = Batch.of(encoded, VIEWS, backbone.pad_token_id, share=True)
    assert batch.fates == {"shortened": 0, "dropped": 1}
    assert batch.counted.tolist() == [True, False]
    engine = Engine(backbone, reference=False)
    statistics, _ = engine(batch)
    alone, _ = engine(Batch.of(encoded[:1], VIEWS, backbone.pad_token_id, share=True))
    assert statistics["chosen"].present.tolist() == [True, False]
    torch.testing.assert_close(statistics["chosen"].sum()[0], alone["chosen"].sum()[0], rtol=1e-5, atol=0)


def test_a_whole_batch_may_be_dropped(backbone, records):
    encoded = [encode(backbone, records, i, 10, "drop") for i in (0, 1)]
    statistics, _ = Engine(backbone, reference=False)(Batch.of(encoded, VIEWS, backbone.pad_token_id, share=True))
    assert not statistics["chosen"].present.any()
    assert statistics["chosen"].logps.isfinite().all()
