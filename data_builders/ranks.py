"""Preference pairs of responses that someone has ranked or scored.

python data_builders/ranks.py --config data_builders/ranks.yaml --data LISTS.jsonl --output O.jsonl
deepspeed data_builders/ranks.py --config data_builders/ranks.yaml --data LISTS.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("ranks"))
