#!/usr/bin/env bash
# wren from nothing, in one command: speech, codec, codes, language model, recogniser, shipped folder.
#
#   recipes/wren/build.sh [FOLDER]
#
# Stop it at any time; started again, it goes on where it was. HOURS multiplies the data (see
# data.sh), STEPS the length of all training, schedules included (STEPS=0.0001 checks the whole chain
# in minutes; another STEPS wants another folder), DEVICE is cpu, cuda or auto, THREADS the CPU threads of a training.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-data/wren}
runs=$out/runs
device=${DEVICE:-auto}
threads=${THREADS:-$(nproc)}
scale=${STEPS:-1}

# To compile takes a minute or two, which a first look does not win back.
brief=$(python3 -c "print('--set compile=false' if $scale < 0.05 else '')")
prepare() { duologue train "$@" --device "$device" --threads "$threads"; }
# shellcheck disable=SC2086
train() { prepare "$@" --scale "$scale" $brief; }
gpu() { [ -f "$here/$1_gpu.toml" ] && [ "$device" = cuda ] && echo "--config $here/$1_gpu.toml"; true; }

"$here/data.sh" "$out"

# 1. The codec whole, then mostly in wren's voice; then only its decoder, while the codes that
#    everything else learns stay.
# shellcheck disable=SC2046
train codec --config "$here/codec.toml" $(gpu codec) --data "$out/mono" --data "$out/mono_valid" \
    --out "$runs/codec"
train codec --config "$here/codec.toml" --config "$here/own.toml" --start "$runs/codec/codec" \
    --data "$out/own" --data "$out/mono" --data "$out/mono_valid" --out "$runs/own"
train codec --config "$here/codec.toml" --config "$here/decoder.toml" \
    --start "$runs/own/codec" --data "$out/own" --data "$out/mono" --data "$out/mono_valid" \
    --out "$runs/decoder"
codec=$runs/decoder/codec

# 2. Codes, and the pieces that texts are made of.
for part in own users train valid; do
    prepare encode --data "$out/$part" --codec "$codec" --out "$out/codes/$part"
done
[ -f "$out/tokenizer.model" ] ||
    duologue train tokenizer --out "$out/tokenizer.model" --pieces 1000 --scripts 8000

# 3. The recogniser; then the language model with its reference encoder, which is told what the
#    recogniser makes of the user.
# shellcheck disable=SC2046
train stt --config "$here/stt.toml" $(gpu stt) --data "$out/users" --data "$out/train" \
    --data "$out/users_valid" --data "$out/valid" --tokenizer "$out/tokenizer.model" \
    --out "$runs/stt"
for part in users train valid; do
    prepare hear --renew "$out/codes/$part" --data "$out/$part" --recogniser "$runs/stt/model"
done
# shellcheck disable=SC2046
train lm --config "$here/lm.toml" $(gpu lm) --data "$out/codes/train" --data "$out/codes/own" \
    --data "$out/codes/users" --data "$out/codes/valid" \
    --codec "$codec" --tokenizer "$out/tokenizer.model" \
    --out "$runs/lm"

# 4. One small folder.
duologue train bundle --lm "$runs/lm/model" --stt "$runs/stt/model" --codec "$codec" \
    --out "$out/wren"
