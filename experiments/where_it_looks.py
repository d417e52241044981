"""Where labels look: pointing game and overlap of every attribution, against lesions of the phantom and against expert boxes.

    python experiments/where_it_looks.py phantom
    python experiments/where_it_looks.py boxes --data images_64.npz --table subset.csv --boxes boxes.csv --images folder

`phantom` scores the models that come with the package against the lesions as painted. `boxes` trains on the table, after leaving
out every patient of the box images, with the same `cxr-workbench fit` that anybody would type, and scores the maps against the
boxes: a table with columns image_id, finding, x, y, w, h, in pixels of an original of --drawn-on pixels a side, and a folder with
the images. The patient of an image is its name up to the underscore, as in ChestX-ray14. A model that exists in --out is not
trained again. Intervals resample patients; *chance* is the area of the lesion, *swapped* the map of another patient with the
same label. Phantom numbers are phantom numbers.
"""
import argparse, subprocess, sys
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from common import markdown

NAMES = {'Infiltrate': 'Infiltration'}  # the official list of boxes against the official table
RECIPES = {  # method -> what `cxr-workbench fit` is told
    'supervised': ['--preset', 'maps'], 'can': ['--preset', 'maps'], 'lcc': ['--preset', 'maps'],
    'supervised-convnext': ['--preset', 'maps', '--backbone', 'test_convnext'],
}


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['phantom', 'boxes'])
    p.add_argument('--models', nargs='+', help=f'packaged models for the phantom; for boxes of {list(RECIPES)}')
    p.add_argument('--images-of-phantom', type=int, default=400)
    p.add_argument('--per-label', type=int, default=40, help='findings of one label that are scored on the phantom, at most')
    p.add_argument('--data', help='.npz of training images')
    p.add_argument('--table', type=Path, help='the table beside it')
    p.add_argument('--boxes', type=Path, help='CSV of boxes')
    p.add_argument('--images', type=Path, help='folder of the images with boxes')
    p.add_argument('--drawn-on', type=int, default=1024, help='side of the images that the boxes were drawn on, pixels')
    p.add_argument('--suffix', default='.jpg')
    p.add_argument('--epochs', type=int, default=12)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--steps', type=int, default=32, help='of integrated gradients')
    p.add_argument('--threshold', type=float, default=.5, help='share of the maximum that counts as found')
    p.add_argument('--n-boot', type=int, default=1000)
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'where_it_looks')
    return p


def patients_of(images): return [str(int(name.split('_')[0])) if name.split('_')[0].isdigit() else name.split('_')[0] for name in images]


def without_patients(table, images, patient='patient_id'):
    "The rows of other patients, checked."
    boxed, who = set(patients_of(images)), table[patient].astype(str)
    rest = table[~who.isin(boxed)]
    if set(rest[patient].astype(str)) & boxed or set(rest.get('image_id', [])) & set(images): raise ValueError('a patient of the box images is left in the training table')
    print(f'{len(boxed)} patients have boxes; {len(table) - len(rest)} of {len(table)} rows of the table are theirs and left out', flush=True)
    return rest


def train(o, name, table):
    "The folder of a run of `cxr-workbench fit`."
    folder = o.out/f'{name}-{o.epochs}-epochs-seed-{o.seed}'
    if not (folder/'model.safetensors').exists():
        command = ['fit', name.split('-')[0], '--data', str(o.data), '--table', str(table), *RECIPES[name], '--epochs', str(o.epochs), '--seed', str(o.seed), '--out', str(folder), '--no-progress']
        print('cxr-workbench ' + ' '.join(command), flush=True)
        subprocess.run([sys.executable, '-c', 'from cxr_workbench.cli import main; main()', *command], check=True)
    return folder


def maps_of(method, x, labels, o):
    """Every way to ask the method, one map per image and label; pixel maps also averaged over 8 x 8 squares, Grad-CAM also counted
    from its least value, and moved to where its grid should be."""
    from cxr_workbench.explain import attribute, displacement, normalise_map, shift_maps, ways
    found = {}
    for how in ways(method, x):
        maps = attribute(method, x, labels, how, **({'steps': o.steps} if how == 'integrated_gradients' else {}))
        found[how] = normalise_map(maps)
        if how.startswith('grad_cam') or how == 'occlusion': found[f'{how}, relative'] = normalise_map(maps, relative=True)
        if how == 'integrated_gradients': found[f'{how}, 8 x 8'] = normalise_map(maps, 8)
        if how.startswith('grad_cam'):
            down, right = displacement(method, x[:2], how.partition(':')[2] or None)
            h, w = cells_of(method, x, how)
            moved = shift_maps(maps, -down*x.shape[-2]/h, -right*x.shape[-1]/w)
            found[f'{how}, relative, moved back by ({down:.2f}, {right:.2f})'] = normalise_map(moved, relative=True)
    return found


def cells_of(method, x, how):
    from cxr_workbench.explain import cell_response
    return cell_response(method, x[:1], 0, 0, how.partition(':')[2] or None).shape[-2:]


def scored(method, x, masks, labels, patient, o, name):
    "The table of one model."
    from cxr_workbench.explain import score_maps
    table = score_maps(maps_of(method, x, labels, o), masks, np.array(labels), patient, o.threshold, o.n_boot)
    table.insert(0, 'model', name)
    o.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(o.out/f'{o.what}-{name}.csv', index=False)
    print(f'\n### {name}, {"phantom" if o.what == "phantom" else "expert boxes"}: {len(x)} findings of {len(set(patient))} patients\n\n' + shown(table.query("label == 'all'").drop(columns='label')), flush=True)
    return table


def shown(table):
    "Means with intervals, as Markdown."
    interval = lambda r, name: f'{r[name]:.3f} [{r[f"{name}_low"]:.3f}, {r[f"{name}_high"]:.3f}]'
    return markdown(pd.DataFrame([{**({'label': r['label']} if 'label' in r else {}), 'way': r['way'], 'pointing': interval(r, 'pointing'), 'swapped': f"{r['swapped']:.3f}",
                                   'iou': interval(r, 'iou'), 'chance': f"{r['chance']:.3f}", 'empty': f"{r['empty']:.0%}", 'n': r['n']} for _, r in table.iterrows()]))


def phantom(o):
    "The packaged models on new images of the phantom."
    from cxr_workbench.data import from_phantom
    from cxr_workbench.learner import load, find_model
    from cxr_workbench.phantom import SyntheticCXR
    fresh = SyntheticCXR(o.images_of_phantom, size=64, seed=3000 + o.seed)
    test = from_phantom(fresh)
    pairs = [(i, c) for c in range(1, len(test.label_names)) for i in np.flatnonzero(test.y[:, c].numpy())[:o.per_label]]
    masks = np.stack([fresh.mask(i)[c] for i, c in pairs]) > 0
    rows, labels = [i for i, _ in pairs], [test.label_names[c] for _, c in pairs]
    for name in o.models or ['supervised', 'can', 'lcc']:
        scored(load(find_model(name)), test.batch(rows).x, masks, labels, test.patient_id[rows], o, name)


def boxes(o):
    "Models trained without the patients of the boxes, on the images with boxes."
    from cxr_workbench.explain import boxes_to_mask
    from cxr_workbench.files import fit_image, read_image
    from cxr_workbench.learner import load
    missing = [f'--{name}' for name in ('data', 'table', 'boxes', 'images') if getattr(o, name) is None]
    if missing: raise SystemExit(f'boxes needs {", ".join(missing)}: see --help')
    drawn, table = pd.read_csv(o.boxes), pd.read_csv(o.table)
    rest = without_patients(table, drawn['image_id'])
    o.out.mkdir(parents=True, exist_ok=True)
    rest.to_csv(o.out/'training.csv', index=False)
    found = [(image, NAMES.get(finding, finding), part[['x', 'y', 'w', 'h']].to_numpy()) for (image, finding), part in drawn.groupby(['image_id', 'finding'])]
    for name in o.models or ['supervised']:
        method = load(train(o, name, o.out/'training.csv'))
        pixels = {image: fit_image(read_image(o.images/f'{image}{o.suffix}'), method.config['size']) for image in {image for image, _, _ in found}}
        x = torch.from_numpy(np.stack([pixels[image] for image, _, _ in found]))[:, None]
        masks = np.stack([boxes_to_mask(corners, o.drawn_on, 256) for _, _, corners in found])
        result = scored(method, x, masks, [label for _, label, _ in found], np.array(patients_of([image for image, _, _ in found])), o, name)
        print('\nby label:\n\n' + shown(result.query("way in ('grad_cam, relative', 'occlusion, relative') and label != 'all'")), flush=True)


if __name__ == '__main__':
    o = options().parse_args()
    dict(phantom=phantom, boxes=boxes)[o.what](o)
