"""What tests of formats share: pictures, and a conversion as one call."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from mmalign.interop import convert
from mmalign.records import Record, assistant_message, read_jsonl, validate


def picture(color: str = "red", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(buffer, kind)
    return buffer.getvalue()


def put_pictures(folder: Path, *names: str) -> None:
    """A picture of its own under every name."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number * 9, 0, 0)).save(folder / name)


def put_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as the ending of ``path`` wants them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def convert_rows(path: Path, rows: list[Any], format: str, **options: Any) -> tuple[list[Record], dict[str, str]]:  # noqa: A002
    """The records that a file of rows gives, less what all have in their meta; and place -> reason of the drops."""
    put_rows(path, rows)
    output = path.with_name("out.jsonl")
    try:
        summary = convert.read(path, format, output, progress=False, **options)
    finally:
        path.unlink()
    assert not list(validate(output, summary.media_root))
    records = list(read_jsonl(output, Record.parse))
    assert [record.meta.pop("format") for record in records] == [format] * len(records)
    assert all(record.meta.pop("place").startswith(path.name) for record in records)
    listed = convert.drop_list(output)
    drops = list(read_jsonl(listed, lambda row, file, line: row)) if listed.exists() else []
    assert summary.rows == len(records) + len(drops) and summary.kept == len(records)
    output.unlink()
    return records, {drop["source"]: drop["reason"] for drop in drops}


def says(text: str) -> list[dict]:
    return [assistant_message(text)]
