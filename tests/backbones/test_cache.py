"""The roomy cache against transformers' own, token by token."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from mmalign.backbones._cache import ROOM, RoomyLayer


def test_it_holds_what_transformers_own_holds():
    generator = torch.Generator().manual_seed(0)
    plain, roomy = DynamicLayer(), RoomyLayer()
    places = set()
    for step in range(3 * ROOM):
        rows = 5 if step < 70 else 3 if step < 150 else 6
        added = [torch.randn(rows, 2, 7 if step in (0, 100) else 1, 4, generator=generator) for _ in range(2)]
        expected, found = plain.update(*added), roomy.update(*added)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert roomy.get_seq_length() == plain.get_seq_length() == expected[0].shape[-2]
        assert roomy.get_mask_sizes(1) == plain.get_mask_sizes(1)
        places.add(roomy.room[0].data_ptr())
        chosen = {69: [4, 0, 2], 149: [0, 0, 2, 1, 1, 1]}.get(step)
        if chosen:
            plain.batch_select_indices(torch.tensor(chosen))
            roomy.batch_select_indices(torch.tensor(chosen))
    assert len(places) <= 6, "most tokens are written in place"
