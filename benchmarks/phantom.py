"""Phantom images per second, labels included; with --learn, what a small network learns from it.

    python benchmarks/phantom.py
    python benchmarks/phantom.py --learn   # about a minute on two free cores

A phantom for understanding mechanisms; its numbers say nothing about patients.
"""
import argparse, os, platform, time
import numpy as np
from cxr_workbench.phantom import LABELS, SyntheticCXR


def describe_machine():
    "Processor and cores, for the table."
    try: name = next(line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    except (OSError, StopIteration): name = platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores'


def images_per_second(size, n, repeats=3):
    "Best of several runs: tables, labels and uint8 images."
    best = float('inf')
    for seed in range(repeats):
        start = time.perf_counter()
        cxr = SyntheticCXR(n, size=size, seed=seed)
        assert cxr.images.shape == (n, size, size) and cxr.labels.shape == (n, len(LABELS))
        best = min(best, time.perf_counter() - start)
    return n/best


def measure_rows():
    "The table, one dict per size."
    what, where = 'phantom images per second, labels included', describe_machine()
    return [dict(what=what, size=size, images=n, per_second=round(images_per_second(size, n)), machine=where)
            for size, n in ((64, 4000), (224, 300))]


def measure_learning(n=3000, held_out=1500, epochs=8, seed=3):
    "AUROC per label on patients that timm's test_resnet has not seen, from scratch at 64 px."
    import timm, torch
    from sklearn.metrics import roc_auc_score
    torch.manual_seed(seed)
    cxr = SyntheticCXR(n + held_out, seed=seed)
    x, y = torch.from_numpy(cxr.images)[:, None].float()/255, torch.from_numpy(cxr.labels)
    x, test = (x - x.mean())/x.std(), torch.from_numpy(cxr.patient_id >= cxr.patient_id[n])
    model, train = timm.create_model('test_resnet', in_chans=1, num_classes=len(LABELS)), torch.where(~test)[0]
    optimizer, batches = torch.optim.AdamW(model.parameters(), weight_decay=.01), len(train)//64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs*batches)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))][:batches*64].split(64):
            shifted = torch.roll(x[rows], torch.randint(-3, 4, (2,)).tolist(), (2, 3))
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(model(shifted), y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad(): scores = torch.cat([model(part) for part in x[test].split(256)])
    return {name: roc_auc_score(y[test][:, k], scores[:, k]) for k, name in enumerate(LABELS)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--learn', action='store_true', help='train a small network and print the AUROC of every label')
    if parser.parse_args().learn:
        aucs = measure_learning()
        for name, auc in aucs.items(): print(f'{name:28s}{auc:.3f}')
        return print(f'{"macro":28s}{np.mean(list(aucs.values())):.3f}')
    for row in measure_rows(): print(f"| {row['size']} px | {row['per_second']:,} images/s | {row['machine']} |")


if __name__ == '__main__': main()
