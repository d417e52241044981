#!/bin/sh
# Everything here that claims speed on a GPU, in ten minutes, on a machine that has no network and few packages.
#
#     sh scripts/on_gpu.sh wheels     before: the packages that such a machine lacks, into .whl/ (Python 3.12, x86-64)
#     sh scripts/on_gpu.sh pack       before: 224 px of the NIH images in $CXR_DATA, into .pack/
#     sh scripts/on_gpu.sh            there: install .whl/ where it is, run scripts/on_gpu.py, print one table
#
# What follows is handed to on_gpu.py: sh scripts/on_gpu.sh --minutes 5 --parts steps scan. Files go to $OUT, or runs/on_gpu.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
python=${PYTHON-python3}
wheels="kornia kornia_rs mambapy diffusers plotly captum pydicom importlib_metadata"

case ${1-} in
wheels)
    platforms=""
    for n in 2_28 2_27 2_17 2_24 2_31 2_34; do platforms="$platforms --platform manylinux_${n}_x86_64"; done
    exec "$python" -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        $platforms --platform manylinux2014_x86_64 -d .whl $wheels ;;
pack)
    [ -d "${CXR_DATA-}/nih14" ] || { echo "Set CXR_DATA to the folder that holds nih14/." >&2; exit 2; }
    mkdir -p .pack
    exec "$python" - "$CXR_DATA/nih14" <<'PY'
import sys
from pathlib import Path
import pandas as pd
from cxr_workbench.files import pack
folder = Path(sys.argv[1])
table = pd.read_csv(folder/'subset.csv')
names = {path.stem: path.name for path in (folder/'images_256').iterdir()}
table['path'] = [names.get(Path(str(name)).stem, '') for name in table.iloc[:, 0]]
table = table[table['path'] != ''].reset_index(drop=True)
table.to_csv('.pack/table.csv', index=False)
pack(table, '.pack/pack', 224, root=folder/'images_256', path_column='path')
PY
    ;;
esac

if [ -d .whl ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    PYTHONPATH="/tmp/site${PYTHONPATH:+:$PYTHONPATH}"
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TQDM_DISABLE=1
export PYTHONPATH PYTHONUNBUFFERED TQDM_DISABLE
exec "$python" scripts/on_gpu.py "$@"
