r"""TEMPLE: DPO from easy pairs to hard ones, then SFT, as one run of several stages.

deepspeed train/temple.py --config train/temple.yaml --model MODEL --data PAIRS.jsonl --sft.data SFT.jsonl \
    --output_dir FOLDER
"""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("dpo"))
