"""What the reference says of every response, computed once and kept on disk.

A row of the file belongs to the record in the same place of the record file::

    {"id": "r1", "media": {"a.jpg": "5f0c..."}, "views": {"chosen": [{"logps": {"float32": "..."}}], ...}}

``media`` are fingerprints of what was looked at; tensors are their dtype and the base64 of their bytes.
All else that the numbers depend on stands in the manifest that `mmalign.runs` keeps beside the file.

Legend of shapes: T tokens of a response, H hidden size.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign import runs
from mmalign.backbones import Backbone
from mmalign.forward.batch import Batch
from mmalign.forward.encoding import EncodedRecord, RecordDataset
from mmalign.forward.statistics import response_hidden
from mmalign.forward.vocabulary import score_tokens, tiles_for
from mmalign.records import InputError, Record, RecordFile, RowFile, media_path


@dataclass(frozen=True)
class Precompute:
    """Runs a reference over records: the ``work`` of `mmalign.runs.run`.

    Attributes:
        backbone: the reference, with the processor that the policy is trained with.
        dataset: the records, encoded as they will be for training.
        hidden: keep the hidden states too, from which a KL over the whole vocabulary can be made.
        unit_size: records of a unit, which are one batch.
    """

    backbone: Backbone
    dataset: RecordDataset
    hidden: bool
    unit_size: int

    def __post_init__(self) -> None:
        if self.backbone.can_pack:
            self.backbone.pack()

    def __call__(self, unit: runs.Unit) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The row of each record of a unit.

        Raises:
            InputError: a record cannot be encoded.
        """
        start = unit.index * self.unit_size
        encoded = [_usable(self.dataset[start + i, True]) for i in range(len(unit.items))]
        for record, each, known in zip(unit.items, encoded, self._known(encoded), strict=True):
            views = {
                view: [{name: _packed(value) for name, value in one.items()} for one in several]
                for view, several in known.items()
            }
            media = _fingerprints(record, each, self.dataset.records.media_root)
            yield record.id, [{"id": record.id, "media": media, "views": views}]

    @torch.no_grad()
    def _known(self, records: Sequence[EncodedRecord]) -> list[dict[str, list[dict[str, Tensor]]]]:
        """For each record, by view, what is known of its responses."""
        backbone, views = self.backbone, self.dataset.encoder.views
        share, pack = backbone.can_branch, backbone.can_pack
        batch = Batch.of(records, views, backbone.pad_token_id, share=share, pack=pack).to(backbone.device)
        hidden = response_hidden(self.backbone, batch)
        targets = batch.target[batch.mask.bool()]
        tiles = tiles_for(len(targets), self.backbone.decoder.config.vocab_size)
        scores = {"logps": score_tokens(hidden, self.backbone.head, targets, tiles=tiles)["logps"]}
        if self.hidden:
            scores["hidden"] = hidden
        lengths = batch.mask.sum(-1).tolist()
        pieces = [
            dict(zip(scores, piece, strict=True))
            for piece in zip(*(value.cpu().split(lengths) for value in scores.values()), strict=True)
        ]
        numbers = {view: index.view(batch.size, -1).tolist() for view, index in batch.views.items()}
        return [
            {view: [pieces[n] for n in own[i] if n >= 0] for view, own in numbers.items()} for i in range(batch.size)
        ]


class PrecomputedReference:
    """Reads what `Precompute` wrote, record by record.

    Args:
        path: the file.
        records: that it was made for, as many and in the same order.
    """

    def __init__(self, path: Path, records: RecordFile) -> None:
        self.rows = RowFile(path)
        self.media_root = records.media_root
        if len(self.rows) != len(records):
            raise InputError(f"holds {len(self.rows)} rows for {len(records)} records: delete it", file=path)

    def attach(self, index: int, record: Record, encoded: EncodedRecord) -> EncodedRecord:
        """The encoded record with what is known of it.

        Raises:
            InputError: its media, or its tokens, are no longer those that the reference saw.
        """
        media, known = self._row(index)
        for name, found in _fingerprints(record, encoded, self.media_root).items():
            if media.get(name) != found:
                raise InputError(
                    f"{name} is not what the reference was computed on: put that back, or {self._anew}",
                    field=_field(record, name),
                )
        for view, several in known.items():
            responses = encoded.responses[view.partition("@")[0]]
            sizes = [len(response.input_ids) for response in responses]
            if [len(one["logps"]) for one in several] != sizes:
                raise InputError(f"{view} has other tokens than the reference saw: {self._anew}")
            for one, size in zip(several, sizes, strict=True):
                if "hidden" in one:
                    one["hidden"] = one["hidden"].view(size, -1)
        return replace(encoded, known=known)

    def _row(self, index: int) -> tuple[dict[str, str], dict[str, list[dict[str, Tensor]]]]:
        """The media's fingerprints, and what is known by view."""
        row = self.rows[index]
        try:
            return row["media"], {
                view: [{name: _unpacked(value) for name, value in one.items()} for one in several]
                for view, several in row["views"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            line = self.rows.line_of(index)
            raise InputError(f"what the reference said is damaged (line {line}): {self._anew}") from error

    @property
    def _anew(self) -> str:
        """What to do if the file is of no use."""
        return f"delete {self.rows.path} and {self.rows.path.name}.run"


def _field(record: Record, name: str) -> str:
    """The field of the record that names a file."""
    return next(f for f in ("images", "videos", "rejected_images", "rejected_videos") if name in getattr(record, f))


def _usable(encoded: EncodedRecord | InputError) -> EncodedRecord:
    if isinstance(encoded, InputError):
        raise encoded
    return encoded


def _fingerprints(record: Record, encoded: EncodedRecord, media_root: Path) -> dict[str, str]:
    """Fingerprints of the pictures and clips that the record's contexts show."""
    names: set[str] = set()
    if encoded.contexts.keys() != {"rejected_media"}:
        names.update(record.images, record.videos)
    if "rejected_media" in encoded.contexts:
        names.update(*record.negative_media)
    return {name: _fingerprint(media_path(name, media_root)) for name in sorted(names)}


def _fingerprint(path: Path) -> str:
    """Of a file's content, which is read again only when the file has been written."""
    state = path.stat()
    return _fingerprint_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _fingerprint_of(path: Path, *_: int) -> str:
    return runs.fingerprint(path)


def _packed(tensor: Tensor) -> dict[str, str]:
    name = str(tensor.dtype).removeprefix("torch.")
    return {name: base64.b64encode(tensor.contiguous().view(torch.uint8).numpy().tobytes()).decode()}


def _unpacked(packed: Mapping[str, str]) -> Tensor:
    [(name, text)] = packed.items()
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=getattr(torch, name))
