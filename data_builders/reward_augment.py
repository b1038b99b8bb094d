"""Each scored pair as two: one for either score that an answer can aim at.

python data_builders/reward_augment.py --config data_builders/reward_augment.yaml --data PAIRS.jsonl --output O.jsonl
deepspeed data_builders/reward_augment.py --config data_builders/reward_augment.yaml --data PAIRS.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("reward_augment"))
