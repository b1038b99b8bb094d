"""The embedded world: seeded pictures and clips of colored shapes, their questions, and a tiny VLM trained on them."""

from __future__ import annotations

from pathlib import Path

MODEL = Path(__file__).parent / "model"  # the bundled tiny VLM, a Hugging Face folder with its model card
