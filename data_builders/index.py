"""An index of pictures that look alike to a model, which other builders retrieve from.

python data_builders/index.py --config data_builders/index.yaml --model M --images FOLDER --output INDEX
deepspeed data_builders/index.py --config data_builders/index.yaml --model M --images FOLDER --output INDEX
"""

from __future__ import annotations

import sys

from mmalign.retrieval.make import main

if __name__ == "__main__":
    sys.exit(main())
