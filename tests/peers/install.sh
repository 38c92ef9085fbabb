#!/bin/sh
# Make an environment with the published packages: `install.sh .venv/bin/python .venv-peers`.
# It lies over the given Python's environment, which has our package, torch and the test tools, and
# leaves that as it is. Peers come without what they ask for: their bounds on torch and others
# exclude each other, and what their models need of it is in the group `peers` or in ours.
set -eu
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
target=${2:-.venv-peers}
packages='import sysconfig; print(sysconfig.get_path("purelib"))'

"$python" -c "import duologue, pytest, torch" || {
    echo "$python: has no development environment; run \`make test\` first" >&2
    exit 1
}
"$python" -m venv --without-pip --clear "$target"
echo '*' >"$target/.gitignore"
below=$("$python" -c "$packages")
echo "import site; site.addsitedir('$below')" >"$("$target/bin/python" -c "$packages")/below.pth"
"$python" -m pip --python "$target/bin/python" install --quiet --no-deps --group peers
"$target/bin/python" -c "import duologue, moshi.models, rustymimi, transformers"
