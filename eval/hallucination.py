"""Does a model say things that are not there? POPE and CHAIR, from one YAML file, into one folder.

python eval/hallucination.py --config eval/hallucination.yaml --model M --output runs/eval
deepspeed eval/hallucination.py --config eval/hallucination.yaml --model M --output runs/eval
"""

from __future__ import annotations

import sys

from mmalign.benchmarks.suite import main

if __name__ == "__main__":
    sys.exit(main())
