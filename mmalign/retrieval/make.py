"""`mmalign index`: pictures embedded by an image encoder, resumable and shared by all ranks, and made searchable."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmalign import flags, runs
from mmalign.media import open_image
from mmalign.media.hashes import content_hash, dhash
from mmalign.plugins import option
from mmalign.records import InputError, MediaError, media_path
from mmalign.retrieval import pictures, write
from mmalign.retrieval.encoders import Encoder, Tower, load_encoder
from mmalign.retrieval.index import Index

if TYPE_CHECKING:
    from PIL import Image

_THREADS = 4  # that open pictures while the encoder works

EXAMPLE = """Example: mmalign index --model MODEL --images PHOTOS --output runs/index. The same command again goes on
after an interruption; with another --index, --center or --search it makes the index anew from what is embedded."""


@dataclass(frozen=True)
class IndexOptions:
    """Which pictures are embedded by what, and how they are searched."""

    output: str = field(metadata={"help": "Folder to write: the index, and what it is made from."})
    images: str | None = option(None, "Folder of the pictures, with all folders below it.")
    data: str | None = option(None, "Or a file of records or sources (JSONL): the pictures that they name.")
    media_root: str | None = option(None, "Folder that names start from (default: --images, or the data file's own).")
    model: str | None = option(None, "Embed with the vision tower of this model: Hugging Face folder or name.")
    adapter: str | None = option(None, "PEFT adapter folder to put on top of the model.")
    encoder: str | None = option(
        None, "Or with an image encoder, such as openai/clip-vit-large-patch14: Hugging Face folder or name."
    )
    dtype: str = option("auto", "auto, float32, bfloat16 or float16.")
    index: str = option("Flat", "How FAISS holds the vectors: Flat (exact), IVF1024,PQ32, HNSW32, or what it knows.")
    search: str | None = option(
        None, "Options of an approximate search, such as nprobe=64 (default: of IVF, the root of its cells)."
    )
    center: bool = option(True, "Take similarities around the mean of the collection, which all pictures share.")
    batch_size: int = option(32, "Pictures that are embedded at a time: as many as fit in memory.")
    unit_size: int = option(256, "Pictures in a unit: the most that a kill can cost.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make an index: the door of ``mmalign index`` and of ``data_builders/index.py``.

    Returns:
        The exit status: 2 for input that cannot be used.
    """
    parser = flags.parser(
        [IndexOptions],
        prog="mmalign index",
        usage="%(prog)s (--model MODEL | --encoder NAME) (--images FOLDER | --data FILE.jsonl) --output INDEX [flags]",
        description="Embed pictures, and make an index that builders search for pictures that look alike.",
        epilog=EXAMPLE,
    )
    given = sys.argv[1:] if arguments is None else arguments
    return flags.guarded("mmalign index", lambda: _run(*flags.parse(parser, given)))


def _run(options: IndexOptions) -> int:
    names, root = _names(options)
    encoder = _encoder(options)
    settings = write.Settings(options.index, options.center, options.search)
    made = make(encoder, names, root, Path(options.output), settings, options.batch_size, options.unit_size)
    if made:
        print(_report(made))
    return 0


def make(
    encoder: Encoder,
    names: Sequence[str],
    media_root: str | Path,
    output: Path,
    settings: write.Settings,
    batch_size: int = 32,
    unit_size: int = 256,
    progress: bool = True,
) -> Index | None:
    """Embed pictures and index them in the folder ``output``: resumable and shared by all ranks, see `runs.run`.

    A picture that cannot be opened is a counted drop. The rank that is done last makes the index.

    Args:
        names: of the pictures, from ``media_root``; brought in order.
        settings: how they are indexed. They may differ from an earlier call's, whose vectors are then used.
        batch_size: pictures that are embedded at a time; moves nothing but floating-point sums.
        unit_size: pictures in a unit of work.

    Returns:
        The index; None while another rank is still at work.

    Raises:
        InputError: the settings cannot be met, no picture can be used, or ``output`` is of other pictures or another
            encoder.
    """
    if batch_size < 1:
        raise InputError(f"must be 1 or more, got {batch_size}", field="batch_size")
    write.check(settings, _width(encoder))
    root = Path(media_root).resolve()
    made_by = {**encoder.identity(), "media_root": str(root)}
    rows = output / "embeddings.jsonl"
    summary = runs.run(
        rows,
        pictures.in_order(names),
        _Embed(encoder, root, batch_size),
        unit_size=unit_size,
        manifest=made_by,
        description="index",
        progress=progress,
    )
    if not summary.complete:
        return None
    if not summary.kept:
        why = ", ".join(f"{reason} {count}" for reason, count in summary.drops.items())
        raise InputError(f"none of {summary.sources} pictures can be used ({why}); see {rows}.run/drops.jsonl")
    write.write(output, rows, settings, made_by, summary)
    return Index.open(output)


@dataclass(frozen=True)
class _Picture:
    """An opened picture with its hashes."""

    name: str
    image: Image.Image
    content: str
    dhash: str


@dataclass(frozen=True)
class _Embed:
    """Rows of embedded pictures: the ``work`` of `mmalign.runs.run`."""

    encoder: Encoder
    root: Path
    batch_size: int

    def __call__(self, unit: runs.Unit) -> Iterator[tuple[str, list[dict[str, Any]] | runs.Drop]]:
        for batch in self._batches(unit.items):
            opened = [each for each in batch.values() if isinstance(each, _Picture)]
            vectors = dict(zip((each.name for each in opened), self._vectors(opened), strict=True))
            for name, each in batch.items():
                yield name, self._row(each, vectors[name]) if isinstance(each, _Picture) else each

    def _batches(self, names: Sequence[str]) -> Iterator[dict[str, _Picture | runs.Drop]]:
        """Pictures by name, opened by threads; the next batch's while the caller works on this one's."""
        batches = [names[start : start + self.batch_size] for start in range(0, len(names), self.batch_size)]
        with ThreadPoolExecutor(_THREADS) as pool:

            def begin(batch: Sequence[str]) -> dict[str, Future]:
                return {name: pool.submit(self._open, name) for name in batch}

            ahead = begin(batches[0])
            for following in [*batches[1:], ()]:
                current, ahead = ahead, begin(following)
                yield {name: future.result() for name, future in current.items()}

    def _open(self, name: str) -> _Picture | runs.Drop:
        try:
            image = open_image(media_path(name, self.root))
        except MediaError as error:
            return runs.Drop(error.reason, str(error))
        return _Picture(name, image, content_hash(image), f"{dhash(image):016x}")

    def _vectors(self, opened: Sequence[_Picture]) -> list[np.ndarray | runs.Drop]:
        """A vector each. Image processors refuse some shapes, a strip of one pixel, say: then one by one."""
        if not opened:
            return []
        try:
            return list(self.encoder([each.image for each in opened]))
        except ValueError as error:
            if len(opened) == 1:
                return [runs.Drop("not_embeddable", str(error))]
            return [vector for each in opened for vector in self._vectors([each])]

    @staticmethod
    def _row(picture: _Picture, vector: np.ndarray | runs.Drop) -> list[dict[str, Any]] | runs.Drop:
        if isinstance(vector, runs.Drop):
            return vector
        if not np.isfinite(vector).all():
            return runs.Drop("not_finite", "numbers beyond the dtype's range: give --dtype float32")
        packed = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        hashes = {"content": picture.content, "dhash": picture.dhash}
        return [{"id": picture.name, **hashes, "vector": packed}]


def _width(encoder: Encoder) -> int:
    """Numbers of a vector."""
    from PIL import Image

    return encoder([Image.new("RGB", (64, 64), "white")]).shape[1]


def _names(options: IndexOptions) -> tuple[list[str], Path]:
    """The pictures, and the folder that their names start from."""
    if bool(options.images) == bool(options.data):
        raise InputError("give --images, a folder, or --data, a file that names pictures; one of them")
    if options.images:
        return pictures.in_folder(options.images, options.media_root), Path(options.media_root or options.images)
    return pictures.in_records(options.data), Path(options.media_root or Path(options.data).parent)


def _encoder(options: IndexOptions) -> Encoder:
    if bool(options.model) == bool(options.encoder):
        raise InputError("give --model, whose vision tower embeds, or --encoder, an image encoder; one of them")
    if options.encoder:
        return load_encoder(options.encoder, options.dtype)
    from mmalign import backbones

    # It is shown no clip, so what they need may be missing.
    return Tower(backbones.load(options.model, adapter=options.adapter, dtype=options.dtype, video="frames"))


def _report(index: Index) -> str:
    """What was indexed, and how alike neighbours are: what thresholds of a guard are chosen by."""
    about, drops = index.manifest, index.manifest["drops"]
    dropped = "".join(f", {count} dropped ({reason})" for reason, count in drops.items())
    what = f"{about['width']} numbers each, as {about['settings']['index']}{dropped}"
    lines = [f"{index.folder}: {len(index)} pictures, {what}"]
    lines += [f"  {label:<48} {value:>6.3f}" for label, value in write.similarities(index).items()]
    return "\n".join(lines)
