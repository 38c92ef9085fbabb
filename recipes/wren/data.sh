#!/usr/bin/env bash
# All speech that wren is trained and judged on. Stop it at any time; it goes on where it was.
#
#   recipes/wren/data.sh [FOLDER] [WORKERS]
#
# Needs: apt-get install flite espeak-ng festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k \
#     festvox-czech-ph festvox-czech-machac festvox-czech-dita festvox-czech-krb festvox-italp16k festvox-itapc16k \
#     festvox-suopuhe-mv festvox-suopuhe-lj festvox-hi-nsk wordnet-base
# Disk: about 173 MB an hour for one channel, 346 MB for two. HOURS multiplies the training sets,
# and below 1 those to judge by too.
set -euo pipefail
out=${1:-data/wren}
workers=${2:-$(nproc)}
hours=${HOURS:-1}

make() { duologue synthesize "$out/$1" --kind "$2" --split "$3" --seed "$4" --hours "$5" --workers "$workers"; }
scaled() { python3 -c "print($1 * $hours)"; }
judged() { python3 -c "print($1 * min(1, $hours))"; }

make mono mono train 1 "$(scaled 8)"
make mono_valid mono valid 1 "$(judged 0.3)"
make own wren train 1 "$(scaled 20)"
make mono_test mono test 1 "$(judged 0.3)"
make users users train 1 "$(scaled 24)"
make users_valid users valid 1 "$(judged 0.3)"
make train dialogue train 1 "$(scaled 20)"
make valid dialogue valid 1 "$(judged 0.5)"
make test dialogue test 1 "$(judged 1)"
