#!/usr/bin/env bash
# Beside LiteRT's converter from PyTorch, pydantic stays at 2.11, and at 1.10 under Python 3.14.
# litert-torch 0.10.0, ai-edge-litert 2.3.0, xdsl 0.28.0, uv 0.13.8, packages' own metadata.
# Guess: a converter of networks asks for a range of its numeric libraries and leaves others alone.
# Seen: litert-torch asks for ai-edge-litert[model-utils], that pins xdsl to 0.28.0, that caps
# typing-extensions below 4.13, and every pydantic from 2.12 on needs 4.14.1. Neither litert-torch
# nor ai-edge-litert names pydantic. pydantic 2.11 pins pydantic-core 2.33.2, which has no wheel for
# Python 3.14: from wheels alone one silently gets pydantic 1.10 there, and of 2 no solution.
# Do: leave the converter out where pydantic 2.12 or Python 3.14 is needed; running engines needs
# ai-edge-litert alone, without the extra.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check uv==0.13.8
cd "$folder"

resolved() { # PYTHON REQUIREMENT...: what uv would take, from wheels alone
    python=$1
    shift
    printf '%s\n' "$@" | venv/bin/uv pip compile -q --no-annotate --no-header --only-binary :all: \
        --no-binary antlr4-python3-runtime --python-version "$python" - 2>&1
}

changed() {
    echo "changed: $1"
    exit 1
}

converter=litert-torch==0.10.0
runtime=ai-edge-litert==2.3.0

both=$(resolved 3.12 "$converter" pydantic)
grep -E '^(pydantic|typing-extensions|xdsl)==' <<<"$both"
grep -q '^pydantic==2\.11\.' <<<"$both" || changed "pydantic 2.11 was expected"
grep -q '^xdsl==0\.28\.0' <<<"$both" || changed "xdsl 0.28.0 was expected"

if resolved 3.12 "$converter" 'pydantic>=2.12' >refused; then changed "2.12 was expected to fail"; fi
echo "with pydantic 2.12: $(tr '\n' ' ' <refused | cut -c1-60)..."

old=$(resolved 3.14 "$converter" pydantic)
echo "under Python 3.14: $(grep -E '^pydantic==' <<<"$old")"
grep -q '^pydantic==1\.10\.' <<<"$old" || changed "pydantic 1.10 was expected under Python 3.14"
if resolved 3.14 "$converter" 'pydantic>=2' >refused; then changed "2 was expected to fail"; fi
echo "with pydantic 2 there: $(tr '\n' ' ' <refused | cut -c1-60)..."

alone=$(resolved 3.14 "$runtime" 'pydantic>=2.12') || changed "the runtime alone was expected to go"
echo "the runtime alone under Python 3.14: $(grep -E '^pydantic==' <<<"$alone")"
