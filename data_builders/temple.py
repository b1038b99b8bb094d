"""Preference pairs of a video told in order, and told with its clips dropped, shuffled or reversed (TEMPLE).

python data_builders/temple.py --config data_builders/temple.yaml --model MODEL --data CLIPS.jsonl --output O.jsonl
deepspeed data_builders/temple.py --config data_builders/temple.yaml --model MODEL --data CLIPS.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("temple"))
