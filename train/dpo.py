"""DPO: `deepspeed train/dpo.py --config train/dpo.yaml --data pairs.jsonl`, the same as `mmalign train dpo`."""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("dpo"))
