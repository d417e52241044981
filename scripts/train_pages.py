"""Train the small models that the pages open on; they go into cxr_workbench/trained, in half precision.

    python scripts/train_pages.py                # all of them
    python scripts/train_pages.py supervised     # one
    python scripts/train_pages.py supervised --epochs 1 --rows 200 --out /tmp/try   # does it still run?
"""
import argparse, shutil, tempfile
from pathlib import Path
import torch
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import from_phantom, patient_split
from cxr_workbench.learner import fit, save
from cxr_workbench.phantom import SyntheticCXR

home = Path(__file__).resolve().parent.parent/'cxr_workbench'/'trained'

# name -> method, its arguments, phantom images, epochs; the phantom's seed is 0, so a page tests on another
MODELS = {
    'supervised': dict(method='supervised', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'can': dict(method='can', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'lcc': dict(method='lcc', arguments=dict(preset='maps'), rows=3000, epochs=12),
}


def train(name, out, rows=None, epochs=None, size=64):
    "Train one model on the phantom, a tenth of the patients held out, and keep what a page needs."
    wish = MODELS[name]
    data = from_phantom(SyntheticCXR(rows or wish['rows'], size=size, seed=0))
    train_rows, valid_rows = patient_split(data.patient_id, data.y, fraction=.1, seed=0)
    seed_all(0)
    method = create_method(wish['method'], labels=data.label_names, size=size, **wish['arguments'])
    with tempfile.TemporaryDirectory() as folder:
        history = fit(method, data.subset(train_rows), data.subset(valid_rows), out=folder, epochs=epochs or wish['epochs'], seed=0)
        save(method, Path(out)/name, dtype=torch.float16, command=f'python scripts/train_pages.py {name}')
        shutil.copyfile(Path(folder)/'history.csv', Path(out)/name/'history.csv')
    print(f"{name}: {len(history)} epochs, held-out phantom AUROC {history['valid/auroc'].iloc[-1]:.3f}")


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', default=list(MODELS))
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--rows', type=int)
    parser.add_argument('--out', type=Path, default=home)
    given = parser.parse_args()
    for name in given.names: train(name, given.out, given.rows, given.epochs)
