"""How hard CAN's attention loss pulls: at the maps, where its gradient is bounded, and at the weights below them.

    python scripts/imagenet_weights.py lite0 lite1
    python experiments/gradients.py                    # one phantom of 96 px, steps 0, 10 and 20

Two trained branches, the product of their maps, cross-entropy, the attention loss with its weight for networks from
nothing. A number is the length of the gradient of the attention loss, times its weight, in lengths of the gradient of
cross-entropy on the same batch: at the maps of both branches, at the feature maps before the transitions, and at the
trained weights of the backbones. One row per step in `results/gradients.csv`.
"""
import pandas as pd
from common import build_method, build_parser, split_parts
from pretrained import BCE, list_recipe

PLACES = ('maps', 'feature maps', 'weights')


def measure_length(loss, places):
    "Length of the gradient of a scalar at some tensors together."
    import torch
    gradients = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
    return sum(float(g.square().sum()) for g in gradients if g is not None)**.5


def compare_pulls(method, batch):
    "The ratio of both pulls at each of PLACES, and the step."
    seen, hooks = {'maps': [], 'feature maps': []}, []
    def keep(name): return lambda module, given, made: seen[name].append(made if name == 'maps' else given[0])
    for transition in (method.transition, method.transition_b):
        hooks += [transition.register_forward_hook(keep(name)) for name in seen]
    step = method.step(batch)
    for hook in hooks: hook.remove()
    nets = (method.backbone, method.backbone_b)
    seen['weights'] = [p for net in nets for p in net.parameters() if p.requires_grad]
    pull = method.weights['attention']*step.terms['attention']
    labels = step.terms['supervised']
    return {name: measure_length(pull, seen[name])/measure_length(labels, seen[name]) for name in PLACES}, step


def train(o, steps):
    "Rows of the ratios at some of the steps."
    import torch
    from cxr_workbench.core import seed_all
    seed_all(0)
    data, rows = split_parts(o, o.folds[0])[0], []
    branches = dict(pretrained=[o.weights, o.weights_b], branch_b='tf_efficientnet_lite1', weights=dict(attention=.3))
    method = build_method(o, 'can', data, **dict(list_recipe(o), **branches, **BCE))
    method.prepare(data.y, data.known)
    method.train()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=o.lr/2, weight_decay=.05)
    order = torch.Generator().manual_seed(0)
    for number in range(max(steps) + 1):
        batch = data.batch(torch.randperm(len(data), generator=order)[:o.batch_size].tolist())
        ratio, step = compare_pulls(method, batch)
        if number in steps: rows.append(dict(step=number, **ratio))
        loss = step.terms['supervised'] + .3*step.terms['attention']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return pd.DataFrame(rows)


def main(command=None):
    p = build_parser(__doc__, 'gradients')
    p.add_argument('--weights', default='weights/tf_efficientnet_lite0.safetensors', help='of the first branch')
    p.add_argument('--weights-b', default='weights/tf_efficientnet_lite1.safetensors', help='of the second branch')
    p.add_argument('--frozen', type=int, default=3, help='early stages that do not train')
    p.add_argument('--lr', type=float, default=1e-3, help='twice the rate of these steps')
    p.add_argument('--at', type=int, nargs='+', default=[0, 10, 20], help='steps at which both are compared')
    p.set_defaults(backbone='tf_efficientnet_lite0', size=96, batch_size=32, folds=[0])
    o = p.parse_args(command)
    if o.report_only: return print(pd.read_csv(o.out).round(2).to_string(index=False))
    found = train(o, o.at)
    found.to_csv(o.out, index=False)
    print(found.round(2).to_string(index=False))


if __name__ == '__main__': main()
