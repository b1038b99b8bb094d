"""SFT: `deepspeed train/sft.py --config train/sft.yaml --data records.jsonl`, the same as `mmalign train sft`."""

from mmalign.training import main

if __name__ == "__main__":
    raise SystemExit(main("sft"))
