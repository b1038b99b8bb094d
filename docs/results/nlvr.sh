#!/usr/bin/env bash
# NLVR from the published folder to scores before and after alignment, for one seed.
#
#     docs/results/nlvr.sh NLVR OUTPUT SEED
#
# NLVR holds dev.json and images/ as published (https://github.com/lil-lab/nlvr). Started again, it goes on.
set -euo pipefail
nlvr=$(realpath "$1") output=$(realpath -m "$2") seed=$3
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
model=$(python -c 'from mmalign.scenes import MODEL; print(MODEL)')
run() { deepspeed --num_gpus 2 --master_port $((29700 + seed)) --module "$@"; }

# pictures, captions, questions; split by image directory: 0-3 train, 4 dev, 5 test
test -f "$output/data/summary.json" || python data_builders/nlvr.py --nlvr "$nlvr" --output "$output/data"

# teach the bundled model these pictures and words
run mmalign.cli train sft --model "$model" --data "$output/data/train/sft.jsonl" --output_dir "$output/base" \
    --freeze none --learning_rate 1e-3 --lr_scheduler_type cosine --warmup_steps 0.05 --num_train_epochs 3 \
    --per_device_train_batch_size 32 --deepspeed zero2 --save_strategy no --seed "$seed"

# let it answer with its eyes closed
run mmalign.cli build bdhs --model "$output/base" --data "$output/data/train/captions.jsonl" \
    --output "$output/pairs.jsonl" --keep_tokens 6 --batch_size 64 --unit_size 32 --seed "$seed"

# prefer what is there
run mmalign.cli train dpo --model "$output/base" --data "$output/pairs.jsonl" --media_root "$output/data/train" \
    --output_dir "$output/aligned" --config mmalign/scenes/demo.yaml --eval_strategy no \
    --per_device_train_batch_size 8 --seed "$seed"

# both answer about directories that neither has seen
cat > "$output/suite.yaml" <<END
suite:
  - {benchmark: chair, data: $output/data/test, options: {prompt: Describe the image.}}
  - {benchmark: pope, data: $output/data/test}
END
for name in base aligned; do
    run mmalign.benchmarks.suite --config "$output/suite.yaml" --model "$output/$name" \
        --output "$output/answers/$name" --batch_size 64
done
