"""Where labels look: pointing game and overlap of every attribution, against lesions of the phantom and expert boxes.

    python experiments/where_it_looks.py phantom
    python experiments/where_it_looks.py boxes --data images_64.npz --table subset.csv --boxes boxes.csv --images folder

`phantom` scores the models that come with the package against the lesions as painted. `boxes` trains on the table,
after leaving out every patient of the box images, with the same `cxr-workbench fit` that anybody would type, and scores
the maps against the boxes: a table with columns image_id, finding, x, y, w, h, in pixels of an original of --drawn-on
pixels a side, and a folder with the images. The patient of an image is its name up to the underscore, as in
ChestX-ray14. A model that exists in --out is not trained again. Intervals resample patients; *chance* is the area of
the lesion, *swapped* the map of another patient with the same label. Phantom numbers are phantom numbers.
"""
import argparse, subprocess, sys
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from common import format_markdown

NAMES = {'Infiltrate': 'Infiltration'}  # the official list of boxes against the official table
RECIPES = {  # method -> options of `cxr-workbench fit`
    'supervised': ['--preset', 'maps'], 'can': ['--preset', 'maps'], 'lcc': ['--preset', 'maps'],
    'supervised-convnext': ['--preset', 'maps', '--backbone', 'test_convnext'],
}


def build_parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['phantom', 'boxes'])
    p.add_argument('--models', nargs='+', help=f'packaged models for the phantom; for boxes of {list(RECIPES)}')
    p.add_argument('--images-of-phantom', type=int, default=400)
    p.add_argument('--per-label', type=int, default=40,
                   help='findings of one label that are scored on the phantom, at most')
    p.add_argument('--data', help='.npz of training images')
    p.add_argument('--table', type=Path, help='the table beside it')
    p.add_argument('--boxes', type=Path, help='CSV of boxes')
    p.add_argument('--images', type=Path, help='folder of the images with boxes')
    p.add_argument('--drawn-on', type=int, default=1024,
                   help='side of the images that the boxes were drawn on, pixels')
    p.add_argument('--suffix', default='.jpg')
    p.add_argument('--epochs', type=int, default=12)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--steps', type=int, default=32, help='of integrated gradients')
    p.add_argument('--threshold', type=float, default=.5, help='share of the maximum that counts as found')
    p.add_argument('--n-boot', type=int, default=1000)
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'where_it_looks')
    return p


def parse_patients(images):
    "The patients of image names: the part up to the underscore, numbers without leading zeros."
    names = [image.split('_')[0] for image in images]
    return [str(int(name)) if name.isdigit() else name for name in names]


def leave_out_patients(table, images, patient='patient_id'):
    "The rows of patients who are on none of the images, checked."
    boxed = set(parse_patients(images))
    rest = table[~table[patient].astype(str).isin(boxed)]
    if set(rest[patient].astype(str)) & boxed or set(rest.get('image_id', [])) & set(images):
        raise ValueError('a patient of the box images is left in the training table')
    print(f'{len(boxed)} patients have boxes; {len(table) - len(rest)} of {len(table)} rows of the table '
          'are theirs and left out', flush=True)
    return rest


def train_by_command(o, name, table):
    "The folder of a run of `cxr-workbench fit`."
    folder = o.out/f'{name}-{o.epochs}-epochs-seed-{o.seed}'
    if (folder/'model.safetensors').exists(): return folder
    source = ['--data', str(o.data), '--table', str(table)]
    training = [*RECIPES[name], '--epochs', str(o.epochs), '--seed', str(o.seed)]
    command = ['fit', name.split('-')[0], *source, *training, '--out', str(folder), '--no-progress']
    print('cxr-workbench ' + ' '.join(command), flush=True)
    start = [sys.executable, '-c', 'from cxr_workbench.cli import main; main()']
    subprocess.run([*start, *command], check=True)
    return folder


def compute_maps(method, x, labels, o):
    """Way -> one map per image and label, in every way of the method.

    Maps of pixels are also averaged over 8 x 8 squares. Grad-CAM is also counted from its least value, and shifted to
    where its grid should be.
    """
    from cxr_workbench.explain import attribute, list_ways, normalise_map
    found = {}
    for how in list_ways(method, x):
        settings = dict(steps=o.steps) if how == 'integrated_gradients' else {}
        maps = attribute(method, x, labels, how, **settings)
        found[how] = normalise_map(maps)
        if how.startswith('grad_cam') or how == 'occlusion':
            found[f'{how}, relative'] = normalise_map(maps, relative=True)
        if how == 'integrated_gradients': found[f'{how}, 8 x 8'] = normalise_map(maps, 8)
        if how.startswith('grad_cam'):
            shifted, (down, right) = shift_back(method, x, maps, how.partition(':')[2] or None)
            name = f'{how}, relative, moved back by ({down:.2f}, {right:.2f})'
            found[name] = normalise_map(shifted, relative=True)
    return found


def shift_back(method, x, maps, target):
    "The maps of a cam target where its cells should be, and the displacement in cells."
    from cxr_workbench.explain import cell_response, displacement, shift_maps
    down, right = displacement(method, x[:2], target)
    h, w = cell_response(method, x[:1], 0, 0, target).shape[-2:]
    return shift_maps(maps, -down*x.shape[-2]/h, -right*x.shape[-1]/w), (down, right)


def score_attributions(method, x, masks, labels, patient, o, name):
    "The table of one model, kept as CSV and printed."
    from cxr_workbench.explain import score_maps
    maps = compute_maps(method, x, labels, o)
    table = score_maps(maps, masks, np.array(labels), patient, o.threshold, o.n_boot)
    table.insert(0, 'model', name)
    o.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(o.out/f'{o.what}-{name}.csv', index=False)
    against = 'phantom' if o.what == 'phantom' else 'expert boxes'
    print(f'\n### {name}, {against}: {len(x)} findings of {len(set(patient))} patients\n')
    print(format_scores(table.query("label == 'all'").drop(columns='label')), flush=True)
    return table


def format_scores(table):
    "Means with intervals, as Markdown."
    def format_interval(row, name): return f'{row[name]:.3f} [{row[f"{name}_low"]:.3f}, {row[f"{name}_high"]:.3f}]'
    rows = []
    for _, row in table.iterrows():
        label = {'label': row['label']} if 'label' in row else {}
        pointing, iou = format_interval(row, 'pointing'), format_interval(row, 'iou')
        references = dict(chance=f"{row['chance']:.3f}", empty=f"{row['empty']:.0%}", n=row['n'])
        swapped = f"{row['swapped']:.3f}"
        rows.append({**label, 'way': row['way'], 'pointing': pointing, 'swapped': swapped, 'iou': iou, **references})
    return format_markdown(pd.DataFrame(rows))


def score_phantom(o):
    "The packaged models on new images of the phantom."
    from cxr_workbench.data import from_phantom
    from cxr_workbench.learner import load, find_model
    from cxr_workbench.phantom import SyntheticCXR
    fresh = SyntheticCXR(o.images_of_phantom, size=64, seed=3000 + o.seed)
    test = from_phantom(fresh)
    labelled = range(1, len(test.label_names))   # the first is No Finding
    present = {c: np.flatnonzero(test.y[:, c].numpy()) for c in labelled}
    pairs = [(int(i), c) for c, found in present.items() for i in found[:o.per_label]]
    masks = np.stack([fresh.mask(i)[c] for i, c in pairs]) > 0
    rows = [i for i, _ in pairs]
    labels = [test.label_names[c] for _, c in pairs]
    for name in o.models or ['supervised', 'can', 'lcc']:
        score_attributions(load(find_model(name)), test.batch(rows).x, masks, labels, test.patient_id[rows], o, name)


def read_boxed_images(o, images, size):
    "Image name -> its pixels (size, size) in [0, 1]."
    from cxr_workbench.files import fit_image, read_image
    return {image: fit_image(read_image(o.images/f'{image}{o.suffix}'), size) for image in set(images)}


def score_boxes(o):
    "Models trained without the patients of the boxes, on the images with boxes."
    from cxr_workbench.explain import boxes_to_mask
    from cxr_workbench.learner import load
    missing = [f'--{name}' for name in ('data', 'table', 'boxes', 'images') if getattr(o, name) is None]
    if missing: raise SystemExit(f'boxes needs {", ".join(missing)}: see --help')
    drawn, table = pd.read_csv(o.boxes), pd.read_csv(o.table)
    rest = leave_out_patients(table, drawn['image_id'])
    o.out.mkdir(parents=True, exist_ok=True)
    rest.to_csv(o.out/'training.csv', index=False)
    findings = drawn.groupby(['image_id', 'finding'])[['x', 'y', 'w', 'h']]
    images = [image for (image, _), _ in findings]
    labels = [NAMES.get(finding, finding) for (_, finding), _ in findings]
    masks = np.stack([boxes_to_mask(part.to_numpy(), o.drawn_on, 256) for _, part in findings])
    patient = np.array(parse_patients(images))
    for name in o.models or ['supervised']:
        method = load(train_by_command(o, name, o.out/'training.csv'))
        pixels = read_boxed_images(o, images, method.config['size'])
        x = torch.from_numpy(np.stack([pixels[image] for image in images]))[:, None]
        result = score_attributions(method, x, masks, labels, patient, o, name)
        chosen = result.query("way in ('grad_cam, relative', 'occlusion, relative') and label != 'all'")
        print('\nby label:\n\n' + format_scores(chosen), flush=True)


if __name__ == '__main__':
    o = build_parser().parse_args()
    dict(phantom=score_phantom, boxes=score_boxes)[o.what](o)
