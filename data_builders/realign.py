"""Preference pairs with a rejected answer and a rejected picture, by retrieval (Re-Align).

python data_builders/realign.py --config data_builders/realign.yaml --model M --index I --data S.jsonl --output O.jsonl
deepspeed data_builders/realign.py --config data_builders/realign.yaml --model M --index I --data S.jsonl --output O
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("realign"))
