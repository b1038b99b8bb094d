"""Preference pairs about clips that were seen in disorder and in part (RRPO's self-alignment).

python data_builders/rrpo.py --config data_builders/rrpo.yaml --model MODEL --data SOURCES.jsonl --output O.jsonl
deepspeed data_builders/rrpo.py --config data_builders/rrpo.yaml --model MODEL --data SOURCES.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("rrpo"))
