"""Spans of what a corrected answer changed.

python data_builders/corrections.py --config data_builders/corrections.yaml --data PAIRS.jsonl --output O.jsonl
deepspeed data_builders/corrections.py --config data_builders/corrections.yaml --data PAIRS.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("corrections"))
