"""RRPO: `mmalign train rrpo` as a script.

deepspeed train/rrpo.py --config train/rrpo.yaml --model MODEL --data PAIRS.jsonl --output_dir FOLDER
"""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("rrpo"))
