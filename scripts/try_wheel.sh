#!/bin/sh
# Tries what is released: the wheel in an empty environment, away from the checkout, used as a stranger would.
#
#     sh scripts/try_wheel.sh python3.12                       the newest wheel in dist/
#     sh scripts/try_wheel.sh python3.12 dist/NAME.tar.gz      another file: the sdist, an older wheel
#     EXTRAS=diffusion sh scripts/try_wheel.sh python3.12      with an extra; diffusion adds the page of the generator
#
# KEEP=1 keeps the environment and says where it lies.
set -eu
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
base=$1
root=$(cd "$(dirname "$0")/.." && pwd)
file=${2-$(ls -t "$root"/dist/*.whl 2>/dev/null | head -n 1)}
[ -f "$file" ] || { echo "There is no wheel to try: make wheel builds one into dist/." >&2; exit 1; }
file=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")

place=$(mktemp -d)
if [ -z "${KEEP-}" ]; then trap 'rm -rf "$place"' EXIT; trap 'exit 130' INT TERM; else echo "--- keeping $place"; fi
say() { printf '\n--- %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

say "$("$base" --version) in an empty environment, $(basename "$file")${EXTRAS:+ with $EXTRAS}"
"$base" -m venv "$place/env"
bin=$place/env/bin
cd "$place"   # away from the checkout, so that nothing is imported from it
"$bin/python" -m pip install --disable-pip-version-check --quiet "$file${EXTRAS:+[$EXTRAS]}"
"$bin/python" -m pip check

say "what lies there"
"$bin/python" -c '
import cxr_workbench, pathlib, importlib.util as u
print("cxr_workbench", cxr_workbench.__version__, "from", pathlib.Path(cxr_workbench.__file__).parent)
tools = [n for n in ("nbdev", "fastcore", "execnb") if u.find_spec(n)]
assert not tools, f"development tools came along: {tools}"'

say "cxr-workbench version"
"$bin/cxr-workbench" version
say "cxr-workbench methods"
"$bin/cxr-workbench" methods | tee methods.txt
grep -q supervised methods.txt || fail "the methods do not name supervised"

say "cxr-workbench lab pages --no-start, twice: the second time a file that was changed stays"
"$bin/cxr-workbench" lab pages --no-start
for page in "$root"/nbs/[!_]*.ipynb "$root"/nbs/tutorials/*.ipynb; do
    [ -f "pages/${page#"$root/nbs/"}" ] || fail "${page#"$root/nbs/"} was not copied"
done
echo '{"mine": true}' > pages/00_core.ipynb
"$bin/cxr-workbench" lab pages --no-start
grep -q mine pages/00_core.ipynb || fail "a file that existed was written over"
rm pages/00_core.ipynb
"$bin/cxr-workbench" lab pages --no-start

case ",${EXTRAS-}," in *,diffusion,*)
    say "the generator's pages run"
    (cd pages && "$bin/jupyter" execute --kernel_name=python3 --timeout=600 \
        61_trcgl_diffusion.ipynb 62_trcgl_requests.ipynb) ;;
*)
    say "without the extra, the generator says what to install"
    "$bin/python" -c 'from cxr_workbench.methods.trcgl_diffusion import import_libraries; import_libraries()' 2>&1 |
        grep -F 'pip install cxr-workbench[diffusion]' || fail "no word about the extra" ;;
esac

say "the first pages run"
(cd pages && "$bin/jupyter" execute --kernel_name=python3 00_core.ipynb 01_phantom.ipynb)
say "all of it works with $("$base" --version)"
