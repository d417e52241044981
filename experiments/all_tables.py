"""Every table of results/, from the rows that are there: the command that made each, given again with `--report-only`.

    python experiments/all_tables.py            write all tables anew; nothing is trained and no image is read
    python experiments/all_tables.py --check    compare only, and name those that are not what the rows give
    python experiments/all_tables.py --show     the commands themselves

To train the runs of a table, take its command without `--report-only` and add `--table`, the table beside the images.
"""
import argparse, contextlib, io, shlex, shutil, sys, tempfile
from importlib import import_module
from pathlib import Path

RESULTS = Path(__file__).parent/'results'
REAL = '--data images_64.npz'
SINGLE = 'few_labels single-positive --size 32'
SHARE = 'few_labels fraction --size 32 --batch-size 32 --unlabelled 32'
SMALL = '--size 32 --steps 200 --batch-size 32'
ONCE = '--draws 1 --steps 200 --batch-size 32'
LOSSES = 'AN WAN EM ROLE MPC'
PARTS = """'ACAA, terms off' 'ACAA, image only' 'ACAA, feature only' 'ACAA, Batch-Mamba only'
    'ACAA, strong view, no attack'"""
VIEWS = """baseline FixMatch-style 'ACAA, terms off' 'ACAA, image only' 'ACAA, eps 1/255' 'ACAA, feature only'
    'ACAA, Batch-Mamba only' 'ACAA, strong view attacked' 'ACAA, strong view, no attack'
    'ACAA, strong view, no attack, image only'
    'ACAA, strong view, no attack, image only, tau .7 .05' 'ACAA, strong view attacked, image only, tau .7 .05' ACAA"""
ALONE = "'MPC, tau_neg .2, IPC only' 'MPC, tau_neg .2, FPC only' 'MPC, tau_neg .2, BTC only'"
PRETRAINED = 'pretrained {} --data images_256.csv --path file_256 --packed pack96 --steps 200'
TRUSTED = """'ACAA, no image attack' 'ACAA, no image attack, prior thresholds'
    'ACAA, no image attack, strict thresholds' 'ACAA, no image attack, aligned and soft'
    'ACAA, prior thresholds' 'ACAA, prior thresholds, eps 1/255' 'ACAA, prior thresholds, strong view'"""
HALF = "baseline 'ACAA, no image attack, prior thresholds' 'ACAA, prior thresholds, strong view'"
LADDER = "base '+ channel gate' '+ class attention' '+ label graph' '+ loss and sampler'"

COMMANDS = {  # table -> experiment and its options
    'few_labels-single-positive-200-phantom':
        f"{SINGLE} --steps 200 --tune 100 400 --variants {LOSSES} 'MPC, tau_neg .2'",
    'few_labels-single-positive-200-real':
        f"{SINGLE} {REAL} --steps 200 --tune 100 400 "
        f"--variants {LOSSES} 'MPC, IPC only' 'MPC, observed left out' 'MPC, tau_neg .2'",
    'few_labels-single-positive-800-phantom':
        f"{SINGLE} --steps 800 --tune 400 1600 --variants {LOSSES} 'MPC, tau .5 .2' {ALONE} 'MPC, tau_neg .2'",
    'few_labels-single-positive-800-real':
        f"{SINGLE} {REAL} --steps 800 --tune 200 400 --variants {LOSSES} 'MPC, tau_neg .2'",
    'few_labels-single-positive-1600-phantom': f"{SINGLE} --steps 1600 --draws 1 --variants AN 'MPC, tau_neg .2'",
    'few_labels-fraction-200-phantom': f'{SHARE} --steps 200 --fractions .05 .1 .2 .5 --tune 100 400',
    'few_labels-fraction-200-real':
        f"{SHARE} {REAL} --steps 200 --fractions .05 .1 .2 .5 --tune 100 400 "
        f"--variants baseline {PARTS} FixMatch-style 'ACAA, prior thresholds' ACAA",
    'few_labels-fraction-800-phantom': f'{SHARE} --steps 800 --draws 1 --tune 1600 --variants {VIEWS}',
    'few_labels-fraction-400-phantom':
        "few_labels fraction --size 64 --steps 400 --batch-size 8 --unlabelled 24 --fractions .2 --folds 0 1 --draws 1 "
        "--variants baseline ACAA 'ACAA, prior thresholds' 'ACAA, strict thresholds'",
    'confident_entries-fraction-phantom': f'confident_entries fraction {SMALL} --unlabelled 32',
    'confident_entries-fraction-real': f'confident_entries fraction {REAL} {SMALL} --unlabelled 32',
    'correlations-lcc-phantom': f'correlations lcc {SMALL}',
    'correlations-lcc-real': f'correlations lcc {REAL} {SMALL}',
    'correlations-can-phantom': f'correlations can {SMALL}',
    'correlations-can-real': f'correlations can {REAL} {SMALL}',
    'rivals-single-positive-phantom': f'rivals single-positive --folds 0 1 2 3 4 5 {ONCE}',
    'rivals-tail-phantom': f'rivals tail --folds 0 1 2 {ONCE}',
    'pretrained-single-positive-phantom':
        "pretrained single-positive --steps 200 --folds 0 1 2 --variants AN LL-R 'MPC, tau_neg .2'",
    'pretrained-fraction-phantom':
        "pretrained fraction --steps 200 --folds 0 1 2 --variants baseline 'ACAA, no image attack, prior thresholds'",
    'pretrained-ends-real':
        f"{PRETRAINED.format('ends')} --folds 0 1 2",
    'pretrained-single-positive-real':
        f"{PRETRAINED.format('single-positive')} --folds 0 1 2 3 4 --draws 2 --variants AN WAN LL-R 'MPC, tau_neg .2'",
    'pretrained-fraction-real':
        f"{PRETRAINED.format('fraction')} --folds 0 1 2 3 4 --draws 2 --variants baseline {TRUSTED}",
    'pretrained-fraction-50-real': f"{PRETRAINED.format('fraction')} --fraction .5 --folds 0 1 2 3 4 --variants {HALF}",
    'pretrained-full-phantom': 'pretrained full --steps 200 --folds 0 1 2',
    'pretrained-full-real': f"{PRETRAINED.format('full')} --folds 0 1 2 3 4 --draws 2",
    'label_graph-phantom': 'label_graph',
    'lcc_folds-real': f'lcc_folds {REAL} {SMALL}',
    'long_tail-32-real':
        f"long_tail {REAL} --size 32 --steps 240 --batch-size 32 --variants {LADDER} 'tail repeated' 'base, sampler'",
    'long_tail-64-phantom': 'long_tail --steps 240 --batch-size 32 --folds 0 1 2 3 4 5',
    'long_tail-64-real':
        f"long_tail {REAL} --steps 240 --batch-size 32 --teach 1500 "
        "--variants base '+ loss and sampler' '+ generated' 'tail repeated'",
}


def write_tables(folder):
    "All tables from the rows that lie in a folder, written beside them."
    for command in COMMANDS.values():
        experiment, *options = shlex.split(command)
        with contextlib.redirect_stdout(io.StringIO()):
            import_module(experiment).main([*options, '--report-only', '--out', str(folder/f'{experiment}.csv')])


def find_differences(results=RESULTS):
    "Names of the tables that are not what the rows beside them give, or that no command makes."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in results.glob('*.csv'): shutil.copy(rows, folder)
        write_tables(folder)
        text = lambda path: path.read_text() if path.exists() else None
        names = {path.name for part in (results, folder) for path in part.glob('*.md')}
        return sorted(n for n in names if text(results/n) != text(folder/n))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='write nothing')
    p.add_argument('--show', action='store_true', help='print the commands')
    o = p.parse_args()
    if o.show:
        for name, command in COMMANDS.items():
            experiment, _, options = command.partition(' ')
            print(f'{name}:\n    python experiments/{experiment}.py {" ".join(options.split())} --report-only')
    elif o.check:
        if found := find_differences(): sys.exit(f'not what the rows give: {", ".join(found)}')
    else: write_tables(RESULTS)


if __name__ == '__main__': main()
