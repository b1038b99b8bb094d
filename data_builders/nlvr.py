"""NLVR as published -> pictures, SFT records, POPE questions and an object map for CHAIR.

python data_builders/nlvr.py --nlvr NLVR --output runs/nlvr

NLVR is the folder of https://github.com/lil-lab/nlvr that holds dev.json and images/. What is written, and
how it is split, is in `mmalign.interop.nlvr`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmalign.interop.nlvr import PARTS, convert
from mmalign.records import InputError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nlvr", type=Path, required=True, help="folder with one .json file and images/")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    for part, directories in PARTS.items():
        text = f"image directories of the part (default: {' '.join(directories)})"
        parser.add_argument(f"--{part}", nargs="+", default=directories, metavar="DIR", help=text)
    parser.add_argument("--per_image", type=int, default=6, help="POPE questions for each picture at most (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="of wording and choice of questions")
    args = parser.parse_args()
    parts = {part: tuple(getattr(args, part)) for part in PARTS}
    try:
        summary = convert(args.nlvr, args.output, parts=parts, per_image=args.per_image, seed=args.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
