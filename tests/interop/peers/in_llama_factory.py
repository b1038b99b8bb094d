"""Run by LLaMA-Factory's own Python: what its loader and its processor make of a data set, as JSON.

python in_llama_factory.py DATASET_DIR NAME STAGE MODEL: one object, with the rows after its converter (``_prompt``,
``_response``, ``_images``, ``_videos``), and, if there are no clips, after tokenization, decoded again. STAGE is
``rm``, ``sft`` or ``kto``.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import types


def stand_in() -> None:
    """torchvision from PyPI does not load beside a torch without CUDA, and torchaudio, left out for the same reason, is
    imported. The two operators that torchvision looks for get a name; an empty module stands for torchaudio.
    """
    import torch

    stand_in.library = torch.library.Library("torchvision", "DEF")  # its definitions go when it does
    stand_in.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stand_in.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import transformers.utils.import_utils  # noqa: F401 - asks whether there is torchaudio, and is to hear no

    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)


def main(folder: str, name: str, stage: str, model: str) -> None:
    stand_in()
    import llamafactory
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, _, _ = get_train_args(
        {
            "model_name_or_path": model,
            "stage": stage.replace("rm", "dpo"),
            "do_train": True,
            "finetuning_type": "lora",
            "dataset": name,
            "dataset_dir": folder,
            "template": "llava",
            "cutoff_len": 4096,
            "overwrite_cache": True,
            "output_dir": os.path.join(folder, "out"),
        }
    )
    tokens = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokens["tokenizer"], data_args)
    rows = _get_merged_dataset(data_args.dataset, model_args, data_args, training_args, stage)
    decoded = []
    if stage == "rm" and not any(row["_videos"] for row in rows):  # the template's processor knows pictures alone
        ready = get_dataset(template, model_args, data_args, training_args, stage=stage, **tokens)["train_dataset"]
        sides = ("chosen_input_ids", "rejected_input_ids")
        decoded = [[tokens["tokenizer"].decode(row[side]) for side in sides] for row in ready]
    print(json.dumps({"version": llamafactory.__version__, "rows": list(rows), "decoded": decoded}), file=RESULT)


if __name__ == "__main__":
    RESULT, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is not the result
    main(*sys.argv[1:])
