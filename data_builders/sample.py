"""Several responses of a model to each prompt, for whoever scores them next.

python data_builders/sample.py --config data_builders/sample.yaml --model M --data SOURCES.jsonl --output O.jsonl
deepspeed data_builders/sample.py --config data_builders/sample.yaml --model M --data SOURCES.jsonl --output O.jsonl
"""

from __future__ import annotations

import sys

from mmalign.builders import main

if __name__ == "__main__":
    sys.exit(main("sample"))
