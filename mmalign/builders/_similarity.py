"""How alike two answers are: the filter of builders that rewrite an answer.

An encoder is called with texts and gives one vector for each; texts are as alike as the cosine of their
vectors. Texts of the same words are equal, whatever the encoder: case and punctuation make no difference.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmalign import plugins, runs
from mmalign.records import InputError

Encoder = Callable[[Sequence[str]], np.ndarray]
"""N texts -> vectors of any length. Shape: (N, D). A text's vector must not depend on the texts beside it."""

_SENTENCE_TRANSFORMERS = "sentence-transformers:"
_ASCII = {code: " " for code in range(128) if not chr(code).isalnum()}
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")  # kana and han one by one


def load_encoder(name: str) -> Encoder:
    """The encoder ``words``, ``sentence-transformers:NAME_OR_PATH`` or ``path/to/file.py:Class``.

    Raises:
        InputError: there is none of that name, or what it needs is not installed.
    """
    if name == "words":
        return encode_words
    if name.startswith(_SENTENCE_TRANSFORMERS):
        return _sentence_transformer(name.removeprefix(_SENTENCE_TRANSFORMERS))
    if ".py:" in name:
        return plugins.find_class("mmalign.builders", name)()
    raise InputError(
        f"no such encoder: {name!r}; there is words, {_SENTENCE_TRANSFORMERS}NAME_OR_PATH and path/to/file.py:Class",
        field="encoder",
    )


def inputs(name: str) -> dict[str, str]:
    """The fingerprint of an encoder that is a folder, for a builder's ``inputs()``; nothing for all others."""
    folder = Path(name.removeprefix(_SENTENCE_TRANSFORMERS))
    if name.startswith(_SENTENCE_TRANSFORMERS) and folder.is_dir():
        return {"encoder": runs.fingerprint(folder)}
    return {}


def words_of(text: str) -> list[str]:
    """The words of ``text`` in order, case-folded, without punctuation and symbols."""
    if text.isascii():  # the same, ten times as fast
        return text.lower().translate(_ASCII).split()
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in text.casefold())
    return _UNSPACED.findall("".join(kept))


def encode_words(texts: Sequence[str], size: int = 1 << 14) -> np.ndarray:
    """Hashed counts of words and of pairs of neighbouring words, each as 1 + log(count). Shape: (N, size).

    One word changed out of n changes one word and two pairs: the cosine falls to about 1 - 3 / (2 n - 1).
    The hash is CRC-32, the same on every machine.
    """
    vectors = np.zeros((len(texts), size))
    for vector, text in zip(vectors, texts, strict=True):
        words = words_of(text)
        for term, count in Counter([*words, *map(" ".join, zip(words, words[1:], strict=False))]).items():
            vector[zlib.crc32(term.encode()) % size] += 1 + np.log(count)
    return vectors


def cosines(encode: Encoder, texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """The cosine of each text with its counterpart; 1 for texts of the same words. Shape: (N,)."""
    count = len(texts)
    vectors = np.asarray(encode([*texts, *others]), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != 2 * count:
        raise InputError(
            f"gave an array of shape {vectors.shape} for {2 * count} texts, expected (N, D)", field="encoder"
        )
    left, right = vectors[:count], vectors[count:]
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = (left * right).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)  # a text without a word: 0
    same = [words_of(text) == words_of(other) for text, other in zip(texts, others, strict=True)]
    return np.where(same, 1.0, cosine)


def _sentence_transformer(name: str) -> Encoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f"{_SENTENCE_TRANSFORMERS}{name} is not available ({error}): pip install sentence-transformers",
            field="encoder",
        ) from None
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise InputError(f"sentence-transformers cannot load {name!r}: {error}", field="encoder") from error
    return lambda texts: model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
