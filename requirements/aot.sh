#!/bin/sh
# An environment that compiles for CUDA and for TPUs on a machine that has neither: jax's plugins
# beside the CPU environment's own packages. 415 MB to download, 1.1 GB on the disk, no NVIDIA wheels.
#
#   sh requirements/aot.sh .venv .venv-aot
set -e
base=$1 venv=$2
version() { sed -n "s/^$1==\([^ ]*\).*/\1/p" "$2"; }
python=$("$base/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
jax=$("$base/bin/python" -c 'import jaxlib; print(jaxlib.__version__)')
libtpu=$(version libtpu "requirements/tpu-py$python.txt")
if [ -f "$venv/.ready-$jax-$libtpu" ]; then exit 0; fi
echo "setting up $venv: compilers of jax $jax for CUDA 12 and TPUs (415 MB, once)"
"$base/bin/python" -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps \
    "jax-cuda12-pjrt==$jax" "jax-cuda12-plugin==$jax" "libtpu==$libtpu"
packages='import sysconfig; print(sysconfig.get_path("purelib"))'
"$base/bin/python" -c "$packages" > "$("$venv/bin/python" -c "$packages")/base.pth"
touch "$venv/.ready-$jax-$libtpu"
