"""Sampling by batch size, of the embedded model and of a Stable-Diffusion-type one; a step of prompt training.

    python benchmarks/diffusion.py
    python benchmarks/diffusion.py --folder some/pipeline --steps 75 --batches 1 2 4     # your own, on your device

`images_per_s` counts whole images: text, all steps with guidance 3 (two answers a step), decoding. `peak_MB` is what is
allocated at the worst moment beside the weights, `weights_MB`. The second model has Stable Diffusion's shape, three
channels and an eightfold autoencoder, with narrow layers and random weights. The last row is the ratio of
`train_prompt` to forward and backward passes to the prompt through the denoiser, taken in turns.
"""
import argparse, tempfile, time
from measure import peak_bytes, time_call
import torch
from cxr_workbench.methods import trcgl_diffusion as td

TEXT = 'Chest radiograph showing Edema.'


def build_wide(size=256):
    "A model of Stable Diffusion's shape: four levels, eightfold autoencoder, 77 tokens; narrow."
    diffusers, _ = td.import_libraries()
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=size,
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=['DownEncoderBlock2D']*4, up_block_types=['UpDecoderBlock2D']*4)
    unet = diffusers.UNet2DConditionModel(
        sample_size=size//8, in_channels=4, out_channels=4, cross_attention_dim=128, attention_head_dim=8,
        block_out_channels=(64, 128, 192, 192), layers_per_block=2, norm_num_groups=16,
        down_block_types=['CrossAttnDownBlock2D']*3 + ['DownBlock2D'],
        up_block_types=['UpBlock2D'] + ['CrossAttnUpBlock2D']*3)
    parts = td.build_small_parts(['Edema'], dim=128, length=77)
    return td.PromptLatentDiffusion(**{**parts, 'vae': vae, 'unet': unet})


def measure_sampling(name, model, batches, steps, rounds=2):
    "One row per batch size."
    weights = sum(p.numel()*p.element_size() for p in model.parameters())/1e6
    device, side = model.device.type, model.unet.config.sample_size*model.stride
    for B in batches:
        sample = lambda steps=steps: model.sample([TEXT]*B, steps=steps)
        sample(1)
        took = min(time_call(sample, device) for _ in range(rounds))
        peak = peak_bytes(lambda: sample(1), device)/1e6
        yield dict(what=f'{name}, {side} px, {steps} steps, {device}', B=B, images_per_s=round(B/took, 3),
                   peak_MB=round(peak), weights_MB=round(weights, 1))


def measure_step(model, batch=8, rounds=15):
    "A training step of the prompt over a bare pass forward and backward to the prompt."
    cells, e = model.unet.config.sample_size, model.embed_texts([TEXT]*batch)
    z = torch.randn(64, 4, cells, cells)
    def run_bare_pass():
        noisy, t = torch.randn(batch, 4, cells, cells), torch.randint(0, 1000, (batch,))
        answer = model.unet(noisy, t, encoder_hidden_states=model.append_prompt(e)).sample
        torch.autograd.grad(answer.square().mean(), model.prompt)
    ends, starts = [], []                # of the steps of training; between them runs a bare pass
    def run_between(step, log):
        ends.append(time.perf_counter())
        run_bare_pass()
        starts.append(time.perf_counter())
    td.train_prompt(model, z, [TEXT]*64, steps=rounds + 3, batch=batch, tell=run_between)
    ours = min(end - start for start, end in zip(starts, ends[1:]))
    plain = min(start - end for end, start in zip(ends, starts))
    return dict(what=f'prompt training step, embedded, B={batch}', reference=f'bare pass {plain*1e3:.0f} ms',
                ours=f'{ours*1e3:.0f} ms', ratio=ours/plain, wanted='<= 1.15')


def measure_rows(batches=(1, 4, 16), steps=10, folder=None, device=None):
    "Rows of both scales, or of one folder."
    if folder:
        model = td.PromptLatentDiffusion.from_pretrained(folder, device=device)
        return list(measure_sampling(str(folder), model, batches, steps))
    model = td.PromptLatentDiffusion.from_pretrained(td.find_packaged(), device='cpu')
    with tempfile.TemporaryDirectory() as place:
        build_wide().save(place)
        other = td.PromptLatentDiffusion.from_pretrained(place, device='cpu')
    return [*measure_sampling('embedded', model, batches, steps),
            *measure_sampling('Stable-Diffusion-type, narrow', other, batches[:2], 2), measure_step(model)]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--folder')
    parser.add_argument('--device')
    for row in measure_rows(**vars(parser.parse_args())): print(row)
