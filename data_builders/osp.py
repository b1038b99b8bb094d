"""Preference pairs that a model judges itself, with their strengths (OSP).

python data_builders/osp.py --config data_builders/osp.yaml --model M --data SOURCES.jsonl --output O.jsonl
deepspeed data_builders/osp.py --config data_builders/osp.yaml --model M --data SOURCES.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("osp"))
