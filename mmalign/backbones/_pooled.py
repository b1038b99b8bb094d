"""Families that pool what their tower makes of frames: pictures and clips go through it in calls of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.backbones._backbone import Backbone, Context, Features, flat, split
from mmalign.backbones._written import Part

_CLIPS = ("pixel_values_videos", "frames")
"""Media of clips: all frames of a prompt, one after the other, (F, C, H, W), and how many each clip has, (V,)."""


class PooledClips(Backbone):
    """LLaVA-OneVision and LLaVA-NeXT-Video: a clip has fewer tokens a frame than a picture has, and no tiles."""

    knows_clips = True
    clips_apart = True

    def media_of(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        """Of the pictures what their processor says; of the clips `_CLIPS`."""
        pictures = [part.inputs for part in parts if part.kind == "image"]
        clips = [part.inputs["pixel_values_videos"][0] for part in parts if part.kind == "video"]
        media = dict(pictures[0]) if pictures else {}
        if clips:
            media |= zip(_CLIPS, (torch.cat(clips), torch.tensor([len(frames) for frames in clips])), strict=True)
        return media

    def _look(self, contexts: Sequence[Context]) -> list[Features]:
        """Pictures first, everywhere: ranks that share weights must call for them in one order."""
        pictures, clips = self._pictures(contexts), self._clips(contexts)
        return [
            Features(self._in_order(context.input_ids, [*own, *moving]))
            for context, own, moving in zip(contexts, pictures, clips, strict=True)
        ]

    def _pictures(self, contexts: Sequence[Context]) -> list[list[Tensor]]:
        """Tokens of each context's pictures, (n, H), if it has any."""
        media = [{k: v for k, v in context.media.items() if k not in _CLIPS} for context in contexts]
        if not any(media):
            return [[] for _ in contexts]
        merged = self.merge_media([each for each in media if each])
        counts = [int((context.input_ids == self.image_token_id).sum()) for context in contexts]
        tokens = flat(self.hf_model.get_image_features(**merged, return_dict=True).pooler_output)
        return [[own] if each else [] for own, each in zip(split(tokens, counts), media, strict=True)]

    def _clips(self, contexts: Sequence[Context]) -> list[list[Tensor]]:
        """Tokens of each context's clips, (n, H), if it has any.

        Frames do not see each other in the tower, so those of all clips go through it as if they were one clip.
        """
        media = [{name: context.media[name] for name in _CLIPS} for context in contexts if _CLIPS[0] in context.media]
        if not media:
            return [[] for _ in contexts]
        pixels, frames = self.merge_media(media).values()
        counts = [int((context.input_ids == self.hf_model.config.video_token_id).sum()) for context in contexts]
        tokens = flat(self.hf_model.get_video_features(pixels[None], return_dict=True).pooler_output)
        end = self.clip_end.to(tokens)
        each = (len(tokens) - len(end)) // len(pixels)
        shown = tokens[: each * len(pixels)].split((each * frames).tolist())
        whole = torch.cat([part for clip in shown for part in (clip, end)])
        return [[own] if count else [] for own, count in zip(split(whole, counts), counts, strict=True)]

    @property
    def clip_end(self) -> Tensor:
        """What stands after the frames of a clip. Shape: (n, H)."""
        return torch.zeros(0, self.decoder.config.hidden_size)

    def _in_order(self, input_ids: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Tokens of pictures, then of clips, to the order in which they stand in the prompt. Shape: (N, H)."""
        media = input_ids[self.is_media(input_ids)]
        places = (media != self.image_token_id).long().argsort(stable=True)  # pictures' first, as they come
        tokens = torch.cat(list(parts))
        return tokens[places.argsort().to(tokens.device)] if len(parts) > 1 else tokens

    def blanks(self, contexts: Sequence[Context]) -> list[Context]:
        """As `Backbone.blanks`: one for each kind that nobody has."""
        kinds = {"pixel_values": "blank_picture"} | ({_CLIPS[0]: "blank_clip"} if self.native_video else {})
        missing = (name for key, name in kinds.items() if not any(key in context.media for context in contexts))
        return [getattr(self, name) for name in missing]
