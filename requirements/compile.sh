#!/bin/sh
# Pin the whole environment, with hashes, for every supported Python and accelerator.
# Developers run it after a change of pyproject.toml's dependencies; it needs uv.
set -eu
cd "$(dirname "$0")/.."
for python in 3.11 3.12 3.13; do
    for accel in cpu cuda12 cuda13 tpu; do
        extras="--extra dicom --extra serve --extra export --extra weights --extra test --extra build"
        [ "$accel" = cpu ] || extras="$extras --extra $accel"
        platform=x86_64-manylinux_2_28
        [ "$accel" != tpu ] || platform=x86_64-manylinux_2_31 # the oldest that libtpu runs on
        # shellcheck disable=SC2086
        uv pip compile pyproject.toml $extras --python-version "$python" \
            --python-platform "$platform" --generate-hashes --no-annotate --quiet \
            --no-emit-index-url --no-emit-find-links --custom-compile-command "requirements/compile.sh" \
            --output-file "requirements/$accel-py$python.txt"
    done
done
# oneDNN has wheels for Linux on x86-64 only, so it has a file of its own.
sed -n 's/^onednn = \["\([^;]*\);.*/\1/p' pyproject.toml | uv pip compile - --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --quiet --no-deps \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "requirements/compile.sh" \
    --output-file requirements/onednn.txt
