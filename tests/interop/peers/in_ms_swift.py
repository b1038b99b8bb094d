"""Run by ms-swift's own Python: what its loader and its templates' first step make of a file, as JSON.

python in_ms_swift.py FILE: how many rows ``load_dataset`` keeps, and for each the two sides as ``TemplateInputs`` has
them, with the tags that its templates add. Pictures are opened by its own rules (``ROOT_IMAGE_DIR``).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any


def main(file: str) -> None:
    import swift
    from swift.dataset import load_dataset
    from swift.template.base import Template
    from swift.template.template_inputs import TemplateInputs
    from swift.template.vision_utils import load_image

    rows, _ = load_dataset([file], load_from_cache_file=False)
    sides = []
    for row in rows:
        inputs = TemplateInputs.from_dict(row)
        pair = {"chosen": inputs.chosen, "rejected": inputs.rejected}
        for side in pair.values():
            if side is not None:
                Template._add_default_tags(side)
                for image in side.images:
                    load_image(image["path"])
        sides.append({name: side and told(asdict(side)) for name, side in pair.items()})
    print(json.dumps({"version": swift.__version__, "rows": len(rows), "sides": sides}), file=RESULT)


def told(side: dict[str, Any]) -> dict[str, Any]:
    """What a side says, with pictures as paths."""
    system = [["system", side["system"]]] if side["system"] else []
    return {
        "messages": system + [[message["role"], message["content"]] for message in side["messages"]],
        "images": [image["path"] for image in side["images"]],
        "videos": side["videos"],
        "margin": side["margin"],
        "label": side["label"],
    }


if __name__ == "__main__":
    RESULT, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is not the result
    main(*sys.argv[1:])
