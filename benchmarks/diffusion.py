"""Sampling of the embedded model and of a small Stable-Diffusion-type one, by batch size; a prompt-training step against a bare pass of the denoiser.

    python benchmarks/diffusion.py
    python benchmarks/diffusion.py --folder some/pipeline --steps 75 --batches 1 2 4     # your own folder, on your device

`images_per_s` counts whole images: text, all steps with guidance 3 (two answers a step), decoding. `peak_MB` is what is allocated at the worst moment
beside the weights, `weights_MB`. The second model has Stable Diffusion's shape, three channels and an eightfold autoencoder, with narrow layers and
random weights. The last row is the ratio of `train_prompt` to forward and backward passes to the prompt through the denoiser, taken in turns.
"""
import argparse, os, tempfile, time
os.environ.setdefault('KINETO_LOG_LEVEL', '99')
import torch
from cxr_workbench.methods import trcgl_diffusion as td

TEXT = 'Chest radiograph showing Edema.'


def wide(size=256):
    "A model of Stable Diffusion's shape: four levels, eightfold autoencoder, 77 tokens; narrow."
    diffusers, transformers = td.libraries()
    parts = td.small_parts(['Edema'], dim=128, length=77)
    vae = diffusers.AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8,
                                  down_block_types=['DownEncoderBlock2D']*4, up_block_types=['UpDecoderBlock2D']*4, sample_size=size)
    cross = ['CrossAttnDownBlock2D']*3, ['CrossAttnUpBlock2D']*3
    unet = diffusers.UNet2DConditionModel(sample_size=size//8, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(64, 128, 192, 192), cross_attention_dim=128,
                                          attention_head_dim=8, down_block_types=[*cross[0], 'DownBlock2D'], up_block_types=['UpBlock2D', *cross[1]], norm_num_groups=16)
    return td.PromptLatentDiffusion(**{**parts, 'vae': vae, 'unet': unet})


def peak(work, device):
    "MB allocated at the worst moment."
    if device.type == 'cuda':
        torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats(); before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before)/1e6
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: work()
    held = most = 0
    for _, gained in sorted((e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == '[memory]'): held += gained; most = max(most, held)
    return most/1e6


def timed(work, device):
    if device.type == 'cuda': torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == 'cuda': torch.cuda.synchronize()
    return time.perf_counter() - start


def sampling(name, model, batches, steps, rounds=2):
    "One row per batch size."
    weights = sum(p.numel()*p.element_size() for p in model.parameters())/1e6
    for B in batches:
        work = lambda: model.sample([TEXT]*B, steps=steps)
        model.sample([TEXT]*B, steps=1)
        took = min(timed(work, model.device) for _ in range(rounds))
        side = model.unet.config.sample_size*model.stride
        yield dict(what=f'{name}, {side} px, {steps} steps, {model.device.type}', B=B, images_per_s=round(B/took, 3), peak_MB=round(peak(lambda: model.sample([TEXT]*B, steps=1), model.device)), weights_MB=round(weights, 1))


def step_cost(model, batch=8, rounds=15):
    "A training step of the prompt over a bare pass forward and backward to the prompt."
    z, cells = torch.randn(64, 4, *[model.unet.config.sample_size]*2), model.unet.config.sample_size
    e = model.read([TEXT]*batch)
    def bare():
        said = model.unet(torch.randn(batch, 4, cells, cells), torch.randint(0, 1000, (batch,)), encoder_hidden_states=model.with_prompt(e)).sample
        torch.autograd.grad(said.square().mean(), model.prompt)
    at = []
    td.train_prompt(model, z, [TEXT]*64, steps=rounds + 3, batch=batch, tell=lambda step: (at.append(('end', time.perf_counter())), bare(), at.append(('start', time.perf_counter()))))
    ours = min(b - a for (k, a), (_, b) in zip(at[1:], at[2:]) if k == 'start')
    plain = min(b - a for (k, a), (_, b) in zip(at, at[1:]) if k == 'end')
    return dict(what=f'prompt training step, embedded, B={batch}', reference=f'bare pass {plain*1e3:.0f} ms', ours=f'{ours*1e3:.0f} ms', ratio=ours/plain, wanted='<= 1.15')


def rows(batches=(1, 4, 16), steps=10, folder=None, device=None):
    "Rows of both scales, or of one folder."
    if folder: return list(sampling(str(folder), td.PromptLatentDiffusion.from_pretrained(folder, device=device), batches, steps))
    model = td.PromptLatentDiffusion.from_pretrained(td.embedded(), device='cpu')
    with tempfile.TemporaryDirectory() as place:
        wide().save(place)
        other = td.PromptLatentDiffusion.from_pretrained(place, device='cpu')
    return [*sampling('embedded', model, batches, steps), *sampling('Stable-Diffusion-type, narrow', other, batches[:2], 2), step_cost(model)]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--folder')
    parser.add_argument('--device')
    for row in rows(**vars(parser.parse_args())): print(row)
