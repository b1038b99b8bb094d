"""DPO: `mmalign train dpo` as a script.

deepspeed train/dpo.py --config train/dpo.yaml --model MODEL --data PAIRS.jsonl --output_dir FOLDER
"""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("dpo"))
