r"""TEMPLE: DPO from easy pairs to hard ones, then SFT, as one run of several stages.

deepspeed train/temple.py --model MODEL --data PAIRS.jsonl --sft.data SFT.jsonl --output_dir FOLDER

Without --config it takes train/temple.yaml, which says what the stages are.
"""

from pathlib import Path

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("dpo", config=Path(__file__).with_suffix(".yaml")))
