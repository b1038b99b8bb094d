"""Preference pairs that a model labels itself, by its implicit reward (SPA, known as Selfie before).

python data_builders/selfie.py --config data_builders/selfie.yaml --model ADAPTER --data S.jsonl --output O.jsonl
deepspeed data_builders/selfie.py --config data_builders/selfie.yaml --model ADAPTER --data S.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("selfie"))
