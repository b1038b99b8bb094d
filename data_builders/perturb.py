"""Negative clips: the parts of each clip out of order, as TEMPLE and RRPO have them.

python data_builders/perturb.py --config data_builders/perturb.yaml --data SOURCES.jsonl --output O.jsonl
deepspeed data_builders/perturb.py --config data_builders/perturb.yaml --data SOURCES.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("perturb"))
