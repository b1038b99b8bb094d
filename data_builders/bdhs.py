"""Preference pairs by bias-driven hallucination sampling (BDHS).

python data_builders/bdhs.py --config data_builders/bdhs.yaml --model M --data SOURCES.jsonl --output O.jsonl
deepspeed data_builders/bdhs.py --config data_builders/bdhs.yaml --model M --data SOURCES.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("bdhs"))
