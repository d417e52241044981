"""What a GPU does with everything here that claims speed, in one table, the most telling part first.

    python scripts/on_gpu.py                                   every part, ten minutes at most
    python scripts/on_gpu.py --parts steps scan --minutes 3
    python scripts/on_gpu.py --small --device cpu --data none   the same code in little, as its test runs it

A part that fails is a row that says why. The table is written after every part: `on_gpu.csv` and `on_gpu.md` in --out.
"""
import argparse, os, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/'benchmarks')]
import measure, methods as steps
from cxr_workbench.core import create_method, list_methods, seed_all


def row(what, value, wanted='', fine=None, **more):
    "One line of the table; `fine` says whether the aim is reached, None: there is none."
    return dict(what=what, value=value, wanted=wanted, fine='' if fine is None else 'yes' if fine else 'NO', **more)


def rate(line):
    "A row of a benchmark as a row of this table."
    limit = line.get('wanted') or ''
    bound = float(limit.split()[-1]) if limit else None
    fine = None if bound is None else line['ratio'] <= bound if '<' in limit else line['ratio'] >= bound
    rest = {name: line[name] for name in ('reference', 'ours', 'images_per_s', 'ms') if name in line}
    return row(line['what'], round(line['ratio'], 3), limit, fine, **rest)


def describe(o):
    "The machine: names, versions, and two ceilings."
    name = torch.cuda.get_device_name() if o.gpu else 'processor'
    yield row('device', name)
    yield row('torch', torch.__version__)
    yield row('cores', os.cpu_count())
    n, side = (2**28, 8192) if o.gpu else (2**20, 256)
    a = torch.rand(n, device=o.device)
    seconds = measure.time_fastest(dict(copy=lambda: a.clone()), 5, o.device)['copy']
    yield row('copy, TB/s read and written', round(8*n/seconds/1e12, 3))
    m = torch.randn(side, side, device=o.device, dtype=torch.bfloat16)
    seconds = measure.time_fastest(dict(product=lambda: m @ m), 5, o.device)['product']
    yield row(f'bfloat16 product of {side}, TFLOP/s', round(2*side**3/seconds/1e12, 2))


def check_method(o, name):
    "The contract of a method on the device: scores, unknown entries, a step, what is saved."
    seed_all(0)
    batch = steps.make_batch(8, size=32)
    known = batch.known.clone()
    known[4:] = False
    few = batch._replace(known=known, y=batch.y*known)
    method = create_method(name, labels=14, size=32, preset='tiny')
    method.prepare(batch.y.cpu(), batch.known.cpu())
    with torch.no_grad(): expected = method.eval()(batch.x.cpu())
    method = method.to(o.device)
    with torch.no_grad(): scores, alone = method(batch.x), method(batch.x[:1])
    off = float((scores.cpu() - expected).abs().max())
    yield row(f'{name}: logits off those of the processor', f'{off:.1e}', '<= 1e-2', off <= 1e-2)
    off = float((scores[:1] - alone).abs().max())
    yield row(f'{name}: a row alone against in its batch', f'{off:.1e}', '<= 1e-3', off <= 1e-3)
    method.train()
    losses = []
    for y in (few.y, torch.where(known, few.y, torch.full_like(few.y, 7.))):
        seed_all(1)
        losses.append(method.step(few._replace(y=y), progress=.5))
    finite = bool(torch.isfinite(losses[0].loss)) and losses[0].loss.device.type == o.kind
    yield row(f'{name}: finite loss on the device', float(losses[0].loss), 'finite', finite)
    same = abs(float(losses[0].loss) - float(losses[1].loss))
    yield row(f'{name}: unknown labels change the loss by', f'{same:.1e}', '<= 1e-4', same <= 1e-4)


def contract(o):
    "Every method on the device."
    for name in list_methods(): yield from guard(f'contract of {name}', lambda: check_method(o, name))


def choose_network(o): return 'resnet50' if o.gpu and not o.small else 'test_resnet'


def method_steps(o):
    "A step of every method over the passes that it needs, in three precisions."
    network = choose_network(o)
    makers = dict(
        can=lambda: steps.measure_can(network, network), lcc=lambda: steps.measure_lcc(network),
        mpc=lambda: steps.measure_mpc(network), acaa=lambda: steps.measure_acaa(network, o.rows//4),
        trcgl=lambda: steps.measure_trcgl(network))
    kinds = [torch.bfloat16, None, torch.float16] if o.gpu else [torch.bfloat16]
    for dtype in kinds:
        steps.HOW.update(dtype=dtype)
        for name, make in makers.items():
            def measured():
                wanted = '<= 1.10' if dtype is torch.bfloat16 else '<= 1.15'
                yield rate(dict(make(), wanted=wanted if o.gpu else ''))
            yield from guard(f'{name} step in {dtype}', measured)
    steps.HOW.update(dtype=None)


def rank_alike(o):
    "Scores in half precision rank as those in full precision do."
    from scipy.stats import spearmanr
    seed_all(0)
    net = create_method('supervised', labels=14, size=o.size, backbone=choose_network(o)).eval()
    x = steps.make_batch(o.rows, size=o.size).x
    few = x[:32].cpu()
    with torch.no_grad(): exact = net(few)
    net = net.to(o.device)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.no_grad(), torch.autocast(o.kind, dtype): rough = net(few.to(o.device)).float().cpu()
        lowest = min(spearmanr(a, b).statistic for a, b in zip(exact.T, rough.T))
        fine = lowest >= .98 if o.gpu else None
        yield row(f'ranking in {dtype} against the processor', round(lowest, 4), '>= .98', fine)


def forms(o):
    "A plain training step: as it is, channels last, compiled."
    batch = steps.make_batch()
    def build(change):
        method = steps.prepare_method('supervised', batch, labels=14, backbone=choose_network(o))
        stepped = change(method)
        def run():
            with torch.autocast(o.kind, torch.bfloat16, enabled=o.gpu): loss = stepped(batch).loss
            loss.backward()
        return run
    changes = {'as it is': lambda m: m.step, 'channels last': lambda m: m.to(memory_format=torch.channels_last).step}
    if o.gpu: changes['compiled'] = lambda m: torch.compile(m.step)
    calls = {name: build(change) for name, change in changes.items()}
    for call in calls.values(): call()
    best = measure.time_fastest(calls, o.rounds, o.device)
    for name, seconds in best.items():
        ratio = seconds/best['as it is']
        yield row(f'supervised step, {name}', round(ratio, 3), ours=f'{seconds*1e3:.1f} ms')


def scan(o):
    "Selective scan against mambapy, and mamba_ssm where it is."
    import scan as page
    tokens, channels = ((64, 256), (512, 1024)) if o.gpu else ((16,), (32,))
    rows = page.measure_rows(tokens, channels, o.rounds, o.device)
    for line in rows:
        wanted = '>= 0.77' if line['way'] == 'mamba_ssm' else '>= 1' if line['way'] != 'selective_scan' else ''
        fine = line['times'] >= float(wanted.split()[-1]) if wanted and o.gpu else None
        what = f'{line["way"]}, {line["tokens"]} tokens, {line["channels"]} channels: times our time'
        yield row(what, line['times'], wanted, fine, ms=line['ms'])
    if not any(line['way'] == 'mamba_ssm' for line in rows): yield row('mamba_ssm', 'cannot be imported here')


def attack(o):
    "GNI-FGSM against bare passes."
    import attack as page
    how = dict(size=o.size, batch=o.rows, rounds=o.rounds, names=(choose_network(o),), device=o.device)
    for line in page.measure_rows(**how): yield rate(line if o.gpu else dict(line, wanted=''))


def elastic(o):
    "Elastic deformation against kornia."
    import elastic as page
    size, sigma = (224, 6) if o.gpu else (32, 3)
    lines = page.measure_rows(size, sigma, o.rows, o.rounds, o.device)
    for line in lines: yield rate(line if o.gpu else dict(line, wanted=''))


def draw_images(o):
    "A data set of noise, as a pack has it: bytes."
    from cxr_workbench.data import from_arrays
    rng = np.random.default_rng(0)
    n = 40*o.rows if o.gpu else 4*o.rows
    y = (rng.random((n, 14)) < .1).astype(float)
    images = rng.integers(0, 255, (n, o.size, o.size), np.uint8)
    return from_arrays(images, y, patient_id=np.arange(n), label_names=[f'label {c}' for c in range(14)])


def loader(o):
    "Batches from memory-mapped bytes to the device, and a network that they feed."
    from cxr_workbench.samplers import batch_sampler, make_loader
    data = draw_images(o)
    batches = make_loader(data, batch_sampler(data.known, 'all', o.rows), workers=min(8, os.cpu_count())*o.gpu)
    pinned = torch.empty(o.rows, 1, o.size, o.size, pin_memory=o.gpu)
    copy = measure.time_fastest(dict(copy=lambda: pinned.to(o.device, non_blocking=True)), 10, o.device)['copy']
    def pass_over(use):
        begin, count = time.perf_counter(), 0
        for batch in batches:
            use(batch.to(o.device, non_blocking=True))
            count += len(batch.x)
        if o.gpu: torch.cuda.synchronize()
        return count/(time.perf_counter() - begin)
    pass_over(lambda batch: None)
    alone = pass_over(lambda batch: None)
    yield row('images a second from memory to the device', round(alone))
    yield row('pinned copies alone, images a second', round(o.rows/copy))
    method = steps.prepare_method('supervised', steps.make_batch(), labels=14, backbone=choose_network(o))
    kept = steps.make_batch()
    def step(batch):
        with torch.autocast(o.kind, torch.bfloat16, enabled=o.gpu): method.step(batch).loss.backward()
    step(kept)
    fed, same = pass_over(step), pass_over(lambda batch: step(kept))
    share = fed/same
    yield row(f'{choose_network(o)} at {o.size} px, fed against a batch that is reused', round(share, 3), '>= 0.95',
              share >= .95 if o.gpu else None, ours=f'{fed:.0f} images/s')


def generator(o):
    "Sampling of the generator of images."
    from cxr_workbench.methods import trcgl_diffusion as td
    import diffusion as page
    model = td.PromptLatentDiffusion.from_pretrained(td.find_packaged(), device=o.device)
    sizes = (16, 64) if o.gpu else (1,)
    for line in page.measure_sampling(f'embedded, {o.device}', model, sizes, 10 if o.gpu else 1):
        yield row(f'{line["what"]}, B={line["B"]}', line['images_per_s'], peak_MB=line['peak_MB'])


def sharded(o):
    "fit with fsdp on one GPU: what it saves runs."
    if not o.gpu: return
    from cxr_workbench.data import from_phantom
    from cxr_workbench.learner import fit, load
    from cxr_workbench.phantom import SyntheticCXR
    data = from_phantom(SyntheticCXR(256, size=64, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        method = create_method('supervised', labels=data.label_names, size=64, backbone='resnet18', ema=None)
        fit(method, data, out=folder, epochs=1, strategy='fsdp', device='cuda', progress=False)
        with torch.no_grad(): scores = load(folder).cpu()(data.batch([0, 1]).x)
    yield row('fsdp: the saved model gives finite scores', bool(torch.isfinite(scores).all()), 'True',
              bool(torch.isfinite(scores).all()))


def few_labels(o):
    "One table of experiments/few_labels.py, as far as the time goes; the same command goes on from its rows."
    if not o.gpu or o.data == 'none': return
    out = Path(o.out)/'few_labels.csv'
    kept = Path(o.data)/'few_labels.csv'      # rows of an earlier machine
    if kept.exists() and not out.exists(): out.write_bytes(kept.read_bytes())
    options = ['single-positive', '--size', '224', '--backbone', 'resnet50', '--steps', '400', '--draws', '1',
               '--folds', '0', '1', '2', '3', '4', '--variants', 'AN', 'MPC', '--device', o.device]
    files = ['--data', str(Path(o.data)/'table.csv'), '--path', 'path', '--packed', str(Path(o.data)/'pack')]
    left = max(1, o.until - time.time())
    command = [sys.executable, str(ROOT/'experiments'/'few_labels.py'), *options, *files, '--out', str(out)]
    done = subprocess.run(['timeout', '-s', 'INT', f'{left:.0f}', *command], capture_output=True, text=True)
    rows = len(pd.read_csv(out)) if out.exists() else 0
    last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ['']
    yield row('few_labels at 224 px: runs with a row', rows, reference=last[0][:200])


PARTS = dict(device=describe, contract=contract, steps=method_steps, ranking=rank_alike, scan=scan, loader=loader,
             elastic=elastic, attack=attack, forms=forms, generator=generator, fsdp=sharded, few_labels=few_labels)


def guard(what, make):
    "The rows of a part; where it fails, what there is and a row with the reason."
    try: yield from make()
    except Exception as error:
        reason = ' '.join(str(error).split())[:300]
        yield row(what, f'{type(error).__name__}: {reason}', '', False)


def format_table(rows):
    "The rows as Markdown."
    columns = list(dict.fromkeys(name for line in rows for name in line))
    lines = [columns, ['---']*len(columns), *([str(line.get(name, '')) for name in columns] for line in rows)]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def keep(rows, out):
    "Both files, whole at any moment."
    pd.DataFrame(rows).to_csv(out/'on_gpu.part', index=False)
    (out/'on_gpu.part').replace(out/'on_gpu.csv')
    (out/'on_gpu.md').write_text(format_table(rows))


def parse(command=None):
    "The options, with what follows from them."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--device', default='cuda')
    p.add_argument('--parts', nargs='+', choices=list(PARTS), default=list(PARTS))
    p.add_argument('--minutes', type=float, default=9., help='no part begins later')
    p.add_argument('--small', action='store_true', help='tiny sizes and one round')
    p.add_argument('--data', default=str(ROOT/'.pack'), help="folder with table.csv and pack/, or 'none'")
    p.add_argument('--out', type=Path, default=Path(os.environ.get('OUT', 'runs/on_gpu')))
    o = p.parse_args(command)
    o.kind, o.until = o.device.partition(':')[0], time.time() + 60*o.minutes
    o.gpu = o.kind == 'cuda'
    if o.gpu and not torch.cuda.is_available():
        raise SystemExit('torch sees no GPU here: give --device cpu --small to try the script without one')
    o.size, o.rows, o.rounds = (32, 8, 1) if o.small else (224, 64, 10)
    return o


def main(command=None):
    o, rows = parse(command), []
    o.out.mkdir(parents=True, exist_ok=True)
    steps.HOW.update(device=o.device, size=o.size, rows=o.rows, rounds=o.rounds)
    for name in o.parts:
        begin = time.time()
        if begin > o.until:
            rows.append(dict(part=name, **row('not begun', 'the time is over')))
            continue
        rows += [dict(part=name, **line) for line in guard(name, lambda: PARTS[name](o))]
        rows.append(dict(part=name, **row('seconds', round(time.time() - begin, 1))))
        keep(rows, o.out)
        print(f'{name}: {time.time() - begin:.0f} s', file=sys.stderr, flush=True)
    print(format_table(rows))
    return rows


if __name__ == '__main__': main()
