#!/usr/bin/env bash
# Downloads libtorch into .libtorch/ in the checkout, which .cargo/config.toml points to.
#
#   deploy/libtorch.sh          the CPU part of the PyPI wheel, about 490 MB on disk
#   TORCH=cuda deploy/libtorch.sh   the whole CUDA build, about 4.7 GB on disk
#
# tch 0.26 binds libtorch 2.13.0. The wheel's libtorch_cpu.so needs two small CUDA libraries to load, even without a GPU, and
# its libtorch.so needs libtorch_cuda.so. The CPU part therefore includes those two, and a libtorch.so linked here that only
# depends on libtorch_cpu.so.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.13.0
flavour=${TORCH:-cpu}
dir=$PWD/.libtorch
stamp="$version $flavour 1"
python=${PYTHON:-python3}

case $flavour in cpu | cuda) ;; *)
    echo "libtorch: TORCH must be cpu or cuda, not '$flavour'" >&2
    exit 2
    ;;
esac
if [ "$(cat "$dir/stamp" 2>/dev/null || true)" = "$stamp" ]; then exit 0; fi
[ "$(uname -sm)" = "Linux x86_64" ] || {
    echo "libtorch: this script supports only Linux on x86_64; set LIBTORCH to the folder of a libtorch $version" >&2
    exit 3
}

work=$(mktemp -d "${TMPDIR:-/tmp}/libtorch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "libtorch: downloading $version ($flavour) from the Python package index" >&2

if [ "$flavour" = cuda ]; then
    rm -rf "$dir"
    "$python" -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet "torch==$version"
    site=$("$dir/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    ln -s "$site/torch/include" "$dir/include"
    ln -s "$site/torch/lib" "$dir/lib"
else
    # Hashes of the files that were tested; pip refuses others.
    cat >"$work/requirements.txt" <<'REQ'
torch==2.13.0 --hash=sha256:60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
REQ
    "$python" -m pip download --quiet --no-deps --require-hashes --only-binary=:all: \
        --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
        --dest "$work" --requirement "$work/requirements.txt"
    rm -rf "$dir"
    mkdir -p "$dir/lib"
    "$python" - "$work" "$dir" <<'PY'
import pathlib, shutil, sys, zipfile

work, out = map(pathlib.Path, sys.argv[1:])
libraries = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libshm.so", "libcudart.so.13", "libcupti.so.13"}
for wheel in sorted(work.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = pathlib.PurePosixPath(member.filename)
            if member.is_dir():
                continue
            if path.name in libraries:
                target = out / "lib" / path.name
            elif path.parts[:2] == ("torch", "include"):
                target = out.joinpath(*path.parts[1:])
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
missing = libraries - {p.name for p in (out / "lib").iterdir()}
if missing:
    sys.exit(f"libtorch: the wheels lack {', '.join(sorted(missing))}")
PY
    ln -s libgomp.so.1 "$dir/lib/libgomp.so"
    echo 'int shopkeeper_libtorch_stub;' | "${CC:-gcc}" -shared -fPIC -x c - -o "$dir/lib/libtorch.so" \
        -Wl,-soname,libtorch.so -Wl,--no-as-needed -L"$dir/lib" -l:libtorch_cpu.so -l:libc10.so \
        -Wl,-rpath,'$ORIGIN' -Wl,--unresolved-symbols=ignore-in-shared-libs
fi
printf '%s' "$version" >"$dir/build-version"
printf '%s' "$stamp" >"$dir/stamp"
echo "libtorch: ready in .libtorch ($(du -shL "$dir/lib" | cut -f1) of libraries)" >&2
