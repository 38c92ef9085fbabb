#!/bin/sh
# Install torch into the environment of the given Python: `install_torch.sh .venv/bin/python`.
# Without an NVIDIA GPU, no CUDA package is installed. TORCH_CPU names the CPU build.
set -eu
python=$1
wanted=${TORCH_CPU:-2.13.0+cpu}

if "$python" -c "import torch" 2>/dev/null; then
    echo "torch is there already"
elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
    "$python" -m pip install --quiet torch
elif [ "$(uname -s)" != Linux ]; then
    # Elsewhere the registry's build is the CPU (or Metal) build.
    "$python" -m pip install --quiet torch
elif "$python" -m pip install --quiet "torch==$wanted" 2>/dev/null; then
    echo "installed torch $wanted"
else
    # The registry's own Linux build comes with gigabytes of CUDA; uv knows where the CPU build is.
    "$python" -m pip install --quiet uv
    "$python" -m uv pip install --quiet --python "$python" --torch-backend cpu torch
fi
