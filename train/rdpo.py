"""rDPO (Re-Align): `mmalign train rdpo` as a script.

deepspeed train/rdpo.py --config train/rdpo.yaml --model MODEL --data PAIRS.jsonl --output_dir FOLDER
"""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("rdpo"))
