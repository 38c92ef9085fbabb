#!/usr/bin/env bash
# wren from nothing, in one command: speech, codec, codes, language model, recogniser, shipped folder.
#
#   recipes/wren/build.sh [FOLDER]
#
# Stop it at any time; started again, it goes on where it was. HOURS multiplies the data (see
# data.sh), STEPS the length of all training (STEPS=0.001 checks the whole chain in minutes),
# DEVICE is cpu, cuda or auto, THREADS the CPU threads of a training.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-data/wren}
runs=$out/runs
device=${DEVICE:-auto}
threads=${THREADS:-$(nproc)}
scale=${STEPS:-1}

steps() { python3 -c "print(max(2, round($1 * $scale)))"; }
train() { duologue train "$@" --device "$device" --threads "$threads"; }
gpu() { [ -f "$here/$1_gpu.toml" ] && [ "$device" = cuda ] && echo "--config $here/$1_gpu.toml"; true; }

"$here/data.sh" "$out"

# 1. The codec whole; then only its decoder, while the codes that everything else learns stay.
# shellcheck disable=SC2046
train codec --config "$here/codec.toml" $(gpu codec) --data "$out/mono" --data "$out/mono_valid" \
    --set "run.steps=$(steps 4600)" --out "$runs/codec"
train codec --config "$here/codec.toml" --config "$here/decoder.toml" \
    --start "$runs/codec/codec" --data "$out/mono" --data "$out/mono_valid" \
    --set "run.steps=$(steps 6000)" --out "$runs/decoder"
codec=$runs/decoder/codec

# 2. Codes, and the pieces that texts are made of.
for part in mono mono_valid train valid; do
    train encode --data "$out/$part" --codec "$codec" --out "$out/codes/$part"
done
[ -f "$out/tokenizer.model" ] ||
    duologue train tokenizer --out "$out/tokenizer.model" --pieces 1000 --scripts 8000

# 3. The language model with its reference encoder, and the recogniser.
train lm --config "$here/lm.toml" --data "$out/codes/train" --data "$out/codes/valid" \
    --codec "$codec" --tokenizer "$out/tokenizer.model" \
    --set "run.steps=$(steps 6000)" --set "scripts.first_steps=$(steps 1500)" --out "$runs/lm"
train stt --config "$here/stt.toml" --data "$out/codes/train" --data "$out/codes/mono" \
    --data "$out/codes/valid" --data "$out/codes/mono_valid" \
    --codec "$codec" --tokenizer "$out/tokenizer.model" \
    --set "run.steps=$(steps 6000)" --out "$runs/stt"

# 4. One small folder.
duologue train bundle --lm "$runs/lm/model" --stt "$runs/stt/model" --codec "$codec" \
    --out "$out/wren"
