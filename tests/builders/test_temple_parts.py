"""TEMPLE's parts: groups of shots, key frames, captions and pairs, each beside a slow and plain version."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from shooting import scene

from mmalign.builders import Drop, _key_frames, _telling
from mmalign.builders._scenery import Run, cosines, groups, refusal, runs_of
from mmalign.builders.temple import refusal as pair_refusal
from mmalign.records import text_of
from tests.tiny import write_clip

# ---- groups and runs -----------------------------------------------------------------------------------------------


def naive_groups(similarity: np.ndarray, above: float) -> list[list[int]]:
    """Dictionaries instead of matrices: WPGMA over all pairs, again and again."""
    size = len(similarity)
    alike = {(i, j): similarity[i, j] for i in range(size) for j in range(size) if i < j}
    members = {i: [i] for i in range(size)}
    while alike:
        best = max(alike, key=lambda pair: alike[pair])
        if alike[best] <= above:
            break
        one, other = best
        members[one] += members.pop(other)
        for third in members:
            if third != one:
                mine, gone = (tuple(sorted((third, of))) for of in (one, other))
                alike[mine] = (alike[mine] + alike[gone]) / 2
        alike = {pair: value for pair, value in alike.items() if other not in pair}
    return sorted(map(sorted, members.values()))


@pytest.mark.parametrize("seed", range(30))
def test_groups_are_those_of_a_naive_version(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rng.integers(1, 14), 3))
    for above in (-1.0, 0.0, 0.5, 0.8, 1.0):
        assert groups(cosines(vectors), above) == naive_groups(cosines(vectors), above)


def test_wpgma_by_hand() -> None:
    """0 and 1 are merged at 0.995, and 2 joins them at 0.99. 3 is alike to the three by ((0.7 + 0.9) / 2 + 0.985) / 2.

    The mean over shots would be less: (0.7 + 0.9 + 0.985) / 3.
    """
    similarity = np.eye(4)
    for i, j, value in [(0, 1, 0.995), (0, 2, 0.99), (1, 2, 0.99), (0, 3, 0.7), (1, 3, 0.9), (2, 3, 0.985)]:
        similarity[i, j] = similarity[j, i] = value
    last = ((0.7 + 0.9) / 2 + 0.985) / 2
    assert groups(similarity, last - 1e-9) == [[0, 1, 2, 3]] and groups(similarity, last) == [[0, 1, 2], [3]]
    assert groups(similarity, 0.99) == [[0, 1], [2], [3]], "as alike as that, but not more"
    assert groups(similarity, 1.0) == [[0], [1], [2], [3]]
    np.testing.assert_array_equal(similarity, similarity.T)


def test_a_vector_of_nothing_is_like_no_other() -> None:
    assert cosines(np.array([[0, 0], [3, 4], [6, 8]], np.float32)).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_runs_by_hand() -> None:
    found = runs_of([[0, 1, 4], [2], [3, 5, 6]])
    assert found == [Run(0, [0, 1]), Run(1, [2]), Run(2, [3]), Run(0, [4]), Run(2, [5, 6])]


@pytest.mark.parametrize("order, reason", [
    ("abc", "few_runs"), ("abcd", None), ("abab", "recurring"), ("abcad", "recurring"), ("abcabd", None),
    ("abacad", "recurring"), ("abacadefg", None), ("abacadaefghij", "recurring"), ("abacadefghij", None)])  # fmt: skip
def test_which_runs_tell_a_story(order: str, reason: str | None) -> None:
    """Of n runs a group may have n // 3, and never more than three."""
    found = [Run(ord(name), [place]) for place, name in enumerate(order)]
    refused = refusal(found, least=4, share=3, most=3)
    assert (refused and refused.reason) == reason
    if order == "abcad":
        assert refused == Drop("recurring", "group 97 in 2 of 5 runs")


def test_two_different_runs_tell_one_too_where_so_few_are_asked_for() -> None:
    assert refusal([Run(0, [0]), Run(1, [1])], least=2, share=3, most=3) is None


# ---- key frames ----------------------------------------------------------------------------------------------------


def plain_sharpness(frame: np.ndarray) -> float:
    """Pixel by pixel: a Gaussian of 1-2-1, and the sum of second derivatives over Sobel's 3 x 3, mirrored at edges."""
    grey = frame.astype(int) @ [77, 150, 29] // 256
    height, width = grey.shape

    def weighed(picture, kernel):
        out = np.zeros((height, width))
        for y in range(height):
            for x in range(width):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        row, column = (
                            (height - 1 - abs(height - 1 - abs(y + dy))),
                            (width - 1 - abs(width - 1 - abs(x + dx))),
                        )
                        out[y, x] += kernel[dy + 1][dx + 1] * picture[row, column]
        return out

    smooth = weighed(grey, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    return float(np.abs(weighed(smooth, [[2, 0, 2], [0, -8, 0], [2, 0, 2]])).mean() / 2)


@pytest.mark.parametrize("kind", ["noise", "board", "plain"])
def test_sharpness_is_that_of_a_plain_version(kind: str) -> None:
    """Also of the sharpest frame that there is: whole numbers of 16 bits hold it."""
    frame = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    if kind == "board":
        frame = np.zeros((8, 8, 3), np.uint8)
        frame[3:5, 3:5] = 255
    if kind == "plain":
        frame = np.full((5, 5, 3), 200, np.uint8)
    assert _key_frames.sharpness(frame) == pytest.approx(plain_sharpness(frame))
    assert (_key_frames.sharpness(frame) == 0) == (kind == "plain")


def test_windows_by_hand() -> None:
    """A stretch of 31 frames: middles after a third and two thirds; ten frames apart, so five to either side."""
    first, second = _key_frames.windows(100, 130, 2)
    assert list(first) == list(range(105, 116)) and list(second) == list(range(115, 126))
    assert first[110] == 1 and first[105] == first[115] == 0 and first[112] == first[108] == math.cos(math.pi / 5)
    assert _key_frames.windows(0, 7, 2) == [{1: 0.0, 2: 1.0, 3: 0.0}, {3: 0.0, 4: 1.0, 5: 0.0}]
    assert _key_frames.windows(5, 5, 2) == [{5: 1.0}], "a frame stands for itself once"


def test_key_frames_are_the_sharpest_near_the_middle(tmp_path: Path) -> None:
    frames = [scene("red", 0).resize((4, 3)).resize((64, 48)) for _ in range(62)]
    for sharp in (12, 15, 41, 53):  # 15: at an edge, where the weight is 0; 53: sharper than 51 but farther away
        frames[sharp] = scene("red", sharp)
    write_clip(tmp_path / "a.avi", frames)
    [first, second] = _key_frames.key_frames(tmp_path / "a.avi", [(0, 30), (31, 61)], 2)
    assert first == [12, 20] and second == [41, 53]
    plain = [scene("red").resize((1, 1)).resize((64, 48))] * 31
    write_clip(tmp_path / "b.avi", plain)
    assert _key_frames.key_frames(tmp_path / "b.avi", [(0, 30)], 2) == [[10, 20]], "equally sharp: the middle"


# ---- what is asked and kept ----------------------------------------------------------------------------------------


def test_questions() -> None:
    [first] = _telling.clip_question(0, "What is it?", "")
    assert [block["type"] for block in first["content"]] == ["video", "text"] and text_of([first]) == "What is it?"
    [third] = _telling.clip_question(2, "", "Tell of {last}, after {before}.")
    assert [block.get("text", block["type"]) for block in third["content"]] == [
        "Video clip 1:", "video", "Video clip 2:", "video", "Video clip 3:", "video", "Tell of 3, after 2.",
    ]  # fmt: skip
    assert text_of(_telling.story_question(["A.", "B."], "Tell it.")) == "Tell it.\n\n- Caption 1: A.\n- Caption 2: B."


@pytest.mark.parametrize("answer, before, caption", [
    ("A dog.\n\nIt runs.", 0, "A dog. It runs."),
    ("So.\nVideo clip 2 goes on.\n\n**Caption:** Video clip 2 shows a dog.\n ", 1, "This video clip shows a dog."),
    ('Detailed caption: "As in video clip 1, a dog runs in the video clip 2."', 1,
     "As in the previous clip, a dog runs in this video clip."),
    ("Detailed caption of video clip 3: The dog of video clip 1 and video clip 2.", 2,
     "The dog of an earlier clip and the previous clip."),
    ("Video clip 7 is none.", 1, "Video clip 7 is none."),
    ("Video clip 1 of a set.", 0, "Video clip 1 of a set."),
    ("<think>A dog?\nOr a cat.</think>\nA cat.", 1, "A cat."),
    (r"So \boxed{A cat {here}.}", 1, "A cat {here}."),
    ("A cat.\n***\n", 1, "A cat."),
    ('A sign reads "STOP"', 0, 'A sign reads "STOP"'),
    ('"Go" and "Stop"', 0, '"Go" and "Stop"'),
    ('"Caption: A cat."', 0, "A cat."),
    ("", 0, ""),
    (" \n ", 1, ""),
])  # fmt: skip
def test_captions(answer: str, before: int, caption: str) -> None:
    assert _telling.caption_of(answer, before) == caption


def test_stories() -> None:
    answer = "<think>So</think> A dog (Caption 1) runs (as captions 2 and 3 say).\nA cat (fat) sits. "
    assert _telling.story_of(answer) == "A dog runs.\nA cat (fat) sits."
    assert _telling.story_of("A sign (its caption reads: No).") == "A sign (its caption reads: No)."


@pytest.mark.parametrize("kind, chosen, rejected, reason", [
    ("drop", "one two", "two", None),
    ("drop", "one two", "three four", "not_longer"),
    ("drop", "one", "two", "not_longer"),
    ("drop", "one", "before one", "contains_chosen"),
    ("shuffle", "one two", "two one", None),
    ("shuffle", "one", "one", "contains_chosen"),
    ("shuffle", "ab" * 10, "c" * 30, None),
    ("shuffle", "ab" * 10, "c" * 31, "length_ratio"),
    ("reverse", "ab" * 16, "c" * 21, "length_ratio"),
    ("drop", "ab" * 16, "c", None),
    ("reverse", "one", " ", "model_wrote_nothing"),
    ("drop", " \n", "one", "model_wrote_nothing"),
    ("drop", "one two", "N/A", "not_available"),
    ("reverse", " N/A", "one", "not_available"),
])  # fmt: skip
def test_which_responses_are_a_pair(kind: str, chosen: str, rejected: str, reason: str | None) -> None:
    assert pair_refusal(kind, chosen, rejected) == reason
