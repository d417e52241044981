#!/bin/sh
# Puts the package, and what it needs, into .venv. Where nothing has changed it returns at once.
#
#     sh scripts/install.sh diffusion,tables,app   what the pages need
#     sh scripts/install.sh dev,dicom,diffusion,stream,app,cluster,docs   what the tests need as well
#
# PYTHON=python3.13 chooses the Python (3.11 or newer). pip's own settings (index, mirror, proxy) are used as they are.
# .venv/.ready-* is written last and holds a checksum of what was installed for, so a killed installation is never taken
# for a whole one.
set -eu
cd "$(dirname "$0")/.."
extras=${1-}
stamp=.venv/.ready-$(printf %s "${extras:-pages}" | tr , -)
python=.venv/bin/python

say() { printf '%s\n' "--- $*"; }
stop() { printf '%s\n' "$*" >&2; exit 1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
fingerprint() { { pwd; version $python; cat settings.ini setup.py; } | cksum; }

# Every installed package has its list of files, and the files are there: false where an installation was cut off.
whole() {
    $python -I -c '
import sys
from importlib.metadata import distributions
cut = lambda d: d.files is None or not all(f.locate().exists() for f in d.files if f.suffix != ".pyc")
broken = sorted({d.metadata["Name"] or "?" for d in distributions() if cut(d)})
if broken: sys.exit("incomplete in .venv: " + ", ".join(broken))'
}

usable() {  # the .venv that lies here: whole, of this folder, of the Python that was asked for
    new_enough $python && $python -m pip --version >/dev/null 2>&1 || return 1
    [ ! -f .venv/.place ] || [ "$(cat .venv/.place)" = "$(pwd)" ] || return 1
    [ -z "${PYTHON-}" ] || [ "$(version "$PYTHON")" = "$(version $python)" ] || return 1
    whole
}

find_python() {
    if [ -n "${PYTHON-}" ]; then
        new_enough "$PYTHON" || stop "PYTHON=$PYTHON is no Python 3.11 or newer."
        echo "$PYTHON"; return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if new_enough $name; then echo $name; return; fi
    done
    stop "No Python 3.11 or newer is on the PATH. Install one, or name it: make PYTHON=/path/to/python3.12 ..."
}

if [ -f "$stamp" ] && new_enough $python && [ "$(cat "$stamp")" = "$(fingerprint)" ] &&
   { [ -z "${PYTHON-}" ] || [ "$(version "$PYTHON")" = "$(version $python)" ]; }; then exit 0; fi

if ! usable; then
    base=$(find_python)
    if [ -d .venv ]; then
        say "1/3  the .venv here cannot be used as it is (incomplete, moved, or another Python): making it anew"
    else say "1/3  making .venv with $($base --version 2>&1), $(command -v "$base")"; fi
    "$base" -m venv --clear .venv ||
        stop "$base cannot make virtual environments. On Debian and Ubuntu: apt install python$(version "$base")-venv"
    pwd > .venv/.place
else say "1/3  using the .venv that is here, $($python --version)"; fi

say "2/3  installing cxr-workbench${extras:+ with its extras $extras} and what it needs into .venv"
say "     The first time this takes minutes; torch is the largest part. pip reports each step:"
rm -f "$stamp"
$python -m pip install --disable-pip-version-check --use-pep517 --editable ".${extras:+[$extras]}" ||
    stop "The installation did not finish; pip's last lines say why. The same command starts again where it can."

say "3/3  checking that every package is complete"
whole || stop "The installation is not whole. The same command makes .venv anew."
fingerprint > "$stamp"
say "ready"
