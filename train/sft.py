"""`mmalign train sft` as a script.

deepspeed train/sft.py --config train/sft.yaml --model MODEL --data RECORDS.jsonl --output_dir FOLDER
"""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("sft"))
