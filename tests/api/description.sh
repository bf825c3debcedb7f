#!/usr/bin/env bash
# Checks docs/openapi.json with two foreign validators, and its examples against its schemas; description.py says how. If a
# prerequisite is missing it is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(openapi-spec-validator==0.9.0 openapi-pydantic==0.6.0 openapi-schema-validator==0.9.0)
venv=$(realpath -m "${CARGO_TARGET_DIR:-target}")/openapi-validators
skip() { echo "$*: docs/openapi.json is not validated"; exit 0; }

command -v python3 >/dev/null 2>&1 || skip "no python3"
if [ "$(cat "$venv/packages" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" >/dev/null 2>&1 || skip "no venv for python3"
    timeout 180 "$venv/bin/pip" install -q --disable-pip-version-check "${packages[@]}" ||
        { rm -rf "$venv"; skip "no validators from PyPI"; }
    echo "${packages[*]}" >"$venv/packages"
fi
"$venv/bin/python" tests/api/description.py docs/openapi.json
