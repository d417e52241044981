"""Random elastic deformation at 224 px, sigma 6: how many images a second, against kornia's transform at that sigma.

    python benchmarks/elastic.py                   # 224 px, sigma 6, batches of 32
    python benchmarks/elastic.py --size 64 --batch 64

Every image is bent, each with a field of its own. kornia gets the smallest kernel that holds three sigmas to either
side. The best of five rounds counts, and the rounds take turns, so that a busy machine slows all of them.
"""
import argparse
from measure import time_fastest
import torch
from cxr_workbench.elastic import RandomElasticDeformation, elastic_displacement, warp


def build_calls(size, sigma, batch, device):
    "Name -> function that bends one batch."
    import kornia
    x, kernel, alpha = torch.rand(batch, 1, size, size, device=device), 2*round(3*sigma) + 1, 1.3*sigma**2
    ours = RandomElasticDeformation(sigma=float(sigma), strength=1., p=1, size=size)
    theirs = kornia.augmentation.RandomElasticTransform(
        (kernel, kernel), (float(sigma),)*2, (2*alpha/(size - 1),)*2, p=1, padding_mode='reflection')
    field = elastic_displacement(batch, size, sigma, alpha, device=device)
    return {
        'RandomElasticDeformation': lambda: ours(x),
        'kornia RandomElasticTransform': lambda: theirs(x),
        'the displacement alone': lambda: elastic_displacement(batch, size, sigma, alpha, device=device),
        'the warp alone': lambda: warp(x, field)}


def measure_rows(size=224, sigma=6, batch=32, rounds=5, device='cpu')->list[dict]:
    "One dictionary per way: images per second, and how many times faster ours is."
    torch.manual_seed(0)
    calls = build_calls(size, sigma, batch, device)
    with torch.inference_mode():
        for bend in calls.values(): bend()
        best = time_fastest(calls, rounds, device)
    ours = best['RandomElasticDeformation']
    return [dict(what=f'{name}, {size} px, sigma {sigma}', images_per_s=round(batch/seconds), ratio=seconds/ours,
                 wanted='>= 10' if name.startswith('kornia') else '') for name, seconds in best.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(size=224, sigma=6, batch=32, rounds=5).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    for row in measure_rows(**vars(parser.parse_args())):
        rate, ratio = f'{row["images_per_s"]:>10,} images/s', f'ours / this {row["ratio"]:6.2f}'
        print(f'{row["what"]:50}{rate}   {ratio}   {row["wanted"]}')


if __name__ == '__main__': main()
