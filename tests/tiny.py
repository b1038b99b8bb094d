"""Tiny models and records that tests share, made offline from a seed."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.records import Record, assistant_message, user_message, write_jsonl

WORDS = ("red", "blue", "green", "circle", "square", "triangle", "small", "large", "left", "right")


def write_model(folder: Path, seed: int) -> Path:
    """An untrained LLaVA with its processor; weights drawn wider than the library's default, which hides bugs."""
    import torch

    from mmalign.scenes import tiny

    tokenizer = tiny.build_tokenizer(list(tiny.world_text(50)))
    model = tiny.build_model(tokenizer, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.copy_(torch.randn(weights.shape, generator=generator) * 0.08)
    model.save_pretrained(folder)
    tiny.build_processor(tokenizer).save_pretrained(folder)
    return folder


def write_moved(folder: Path, source: Path, seed: int) -> Path:
    """``source`` with noise on every weight."""
    import torch

    from mmalign import backbones

    backbone = backbones.load(source, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in backbone.model.parameters():
            weights.add_(torch.randn(weights.shape, generator=generator) * 0.01)
    backbone.save(folder)
    return folder


def write_pairs(
    folder: Path, count: int, seed: int, pictures: Sequence[int] = (1, 2), clips: Sequence[int] = (0,)
) -> Path:
    """Preference records with pictures and clips beside them, as many as ``pictures`` and ``clips`` say in turn."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(count):
        names = tuple(f"{i}-{k}.png" for k in range(pictures[i % len(pictures)]))
        for name in names:
            noise(rng).save(folder / name)
        videos = tuple(f"{i}-{k}.avi" for k in range(clips[i % len(clips)]))
        for name in videos:
            write_clip(folder / name, [noise(rng) for _ in range(9)])
        records.append(
            Record(
                id=f"r{i}",
                prompt=[user_message("Describe the image.", images=len(names), videos=len(videos))],
                images=names,
                videos=videos,
                chosen=[assistant_message(sentence(rng, 3 + i % 5))],
                rejected=[assistant_message(sentence(rng, 5))],
                weight=1.0 + i % 3,
            )
        )
    write_jsonl(folder / "pairs.jsonl", records)
    return folder / "pairs.jsonl"


def noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))


def write_clip(path: Path, frames: Sequence[Image.Image], fps: int = 10) -> None:
    """A clip of JPEG pictures in an AVI file, which needs no encoder."""

    def chunk(tag: bytes, data: bytes) -> bytes:
        return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def listed(kind: bytes, *chunks: bytes) -> bytes:
        return chunk(b"LIST", kind + b"".join(chunks))

    pictures = []
    for frame in frames:
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=95, subsampling=0)
        pictures.append(buffer.getvalue())
    (width, height), count, largest = frames[0].size, len(frames), max(map(len, pictures))
    main = struct.pack("<14I", 1_000_000 // fps, 0, 0, 0x10, count, 0, 1, largest, width, height, *[0] * 4)
    stream = b"vidsMJPG" + struct.pack(
        "<IHH8I4H", 0, 0, 0, 0, 1, fps, 0, count, largest, 2**32 - 1, 0, 0, 0, width, height
    )
    form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    header = listed(b"hdrl", chunk(b"avih", main), listed(b"strl", chunk(b"strh", stream), chunk(b"strf", form)))
    index, place = b"", 4
    for picture in pictures:
        index += b"00dc" + struct.pack("<III", 0x10, place, len(picture))
        place += 8 + len(picture) + len(picture) % 2
    movie = listed(b"movi", *(chunk(b"00dc", picture) for picture in pictures))
    path.write_bytes(chunk(b"RIFF", b"AVI " + header + movie + chunk(b"idx1", index)))


def sentence(rng: np.random.Generator, words: int) -> str:
    return f"There is a {' '.join(rng.choice(WORDS, words))}."


def environment() -> dict[str, str]:
    """Environment of a child process: no hub, one thread, gloo on loopback, no coverage of this one's ranks."""
    drop = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in drop}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def run_command(
    *arguments: str | Path, check: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`mmalign ...` in a process of its own."""
    command = [sys.executable, "-m", "mmalign.cli", *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600, cwd=cwd)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def deepspeed_command(*flags: str | Path) -> list[str]:
    """`deepspeed ...` at a port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [str(Path(sys.executable).parent / "deepspeed"), "--master_port", str(port), *map(str, flags)]


def run_deepspeed(processes: int, script: str | Path, *arguments: str | Path) -> str:
    """`deepspeed --num_gpus N script ...`; what it printed."""
    command = deepspeed_command("--num_gpus", str(processes), script, *arguments)
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment(), start_new_session=True, **both) as process:
        try:
            printed, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its ranks too
            raise AssertionError(f"no end after 600 seconds:\n{process.communicate()[0]}") from None
    assert process.returncode == 0, printed
    return printed
