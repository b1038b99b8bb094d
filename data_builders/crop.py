"""Negative pictures: a random crop of each picture, as mDPO has them.

python data_builders/crop.py --config data_builders/crop.yaml --data SOURCES.jsonl --output O.jsonl
deepspeed data_builders/crop.py --config data_builders/crop.yaml --data SOURCES.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("crop"))
