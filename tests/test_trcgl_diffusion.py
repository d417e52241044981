"Prompt-latent diffusion: what its page does not assert, on two small folders built here, the package's kind and SD's."
import copy, json, sys
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from cxr_workbench.data import from_arrays, from_csv, split_by_patient
from cxr_workbench.files import FileImages
from cxr_workbench.methods import trcgl_diffusion as td, trcgl_requests as tr

pytest.importorskip('diffusers')
NAMES = ['Edema', 'Fracture', 'Hernia']
LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789.,'


def open_model(folder, **kw): return td.PromptLatentDiffusion.from_pretrained(folder, device='cpu', **kw)
def build_tiny(): return td.build_small_parts(NAMES, widths=(8, 16), vae_widths=(8, 8), size=16)


def parts_changed(module, before):
    "First names of the tensors that differ from what they were."
    return {name.split('.')[0] for name, v in module.state_dict().items() if not torch.equal(v, before[name])}


def clip_tokenizer(folder):
    "Stable Diffusion's kind of tokenizer, with letters for words; written as files, because that is how it comes."
    folder.mkdir(parents=True)
    vocab = {w: i for i, w in enumerate([*LETTERS, *(c + '</w>' for c in LETTERS), '<|startoftext|>', '<|endoftext|>'])}
    (folder/'vocab.json').write_text(json.dumps(vocab))
    (folder/'merges.txt').write_text('#version: 0.2\n')
    end = '<|endoftext|>'
    words = dict(bos_token='<|startoftext|>', eos_token=end, pad_token=end, unk_token=end)
    config = dict(tokenizer_class='CLIPTokenizer', model_max_length=77, **words)
    (folder/'tokenizer_config.json').write_text(json.dumps(config))
    return len(vocab)


@pytest.fixture(scope='session')
def sd_folder(tmp_path_factory):
    "Three channels, epsilon, PNDM, half precision on disk, as Stable Diffusion 2.1-base."
    import diffusers, transformers
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('sd')/'pipeline'
    words = clip_tokenizer(folder/'tokenizer')
    text = transformers.CLIPTextConfig(
        vocab_size=words, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, pad_token_id=words - 1, bos_token_id=words - 2, eos_token_id=words - 1)
    parts = dict(
        vae=diffusers.AutoencoderKL(
            block_out_channels=[8, 8], in_channels=3, out_channels=3, latent_channels=4,
            norm_num_groups=4, sample_size=32,
            down_block_types=['DownEncoderBlock2D']*2, up_block_types=['UpDecoderBlock2D']*2),
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
            cross_attention_dim=32, attention_head_dim=4, norm_num_groups=4,
            down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
            up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D')),
        text_encoder=transformers.CLIPTextModel(text))
    for name, part in parts.items(): part.half().save_pretrained(folder/name)
    scheduler = diffusers.PNDMScheduler(
        beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012,
        skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    scheduler.save_pretrained(folder/'scheduler')
    return folder


@pytest.fixture(scope='session')
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('small')/'pipeline'
    td.PromptLatentDiffusion(**build_tiny(), tokens=4).save(folder, torch.float16)
    return folder


@pytest.fixture(params=['small', 'sd'])
def model(request, small_folder, sd_folder): return open_model(small_folder if request.param == 'small' else sd_folder)
@pytest.fixture
def small(small_folder): return open_model(small_folder)


def table(n=40, patients=True, **kw):
    g = np.random.default_rng(0)
    y = (g.random((n, 3)) < [.9, .1, .15]).astype(np.float32)
    y[:3, 1], y[3:6, 2] = 1, 1
    images, patient_id = g.integers(0, 256, (n, 16, 16), dtype=np.uint8), np.arange(n)//2 if patients else None
    return from_arrays(images, y, patient_id=patient_id, label_names=NAMES, **kw)


def agree(x): return torch.full((len(x), 3), .9)

# ---- one code for both scales ----


def test_images_go_both_ways_in_the_project_s_shape(model):
    side = model.unet.config.sample_size*model.stride
    x = torch.rand(3, 1, side, side)
    z = model.to_latents(x)
    assert z.shape == (3, 4, side//model.stride, side//model.stride) and z.dtype == torch.float32
    back = model.to_images(z)
    assert back.shape == x.shape and back.dtype == torch.float32 and 0 <= back.min() and back.max() <= 1
    rgb = model.vae.decode(z/model.vae.config.scaling_factor).sample
    assert torch.allclose(back, (rgb.mean(1, keepdim=True)/2 + .5).clamp(0, 1), atol=1e-6)
    with pytest.raises(ValueError, match='multiples'): model.to_latents(torch.rand(1, 1, 15, 15))


def test_many_images_go_through_the_autoencoder_a_few_at_a_time(small):
    x = torch.rand(2*td.AT_A_TIME + 3, 1, 16, 16)
    with torch.no_grad():
        z = small.vae.encode(2*x - 1).latent_dist.mean*small.vae.config.scaling_factor
        back = (small.vae.decode(z/small.vae.config.scaling_factor).sample/2 + .5).clamp(0, 1)
    seen = []
    parts = small.vae.encoder, small.vae.decoder
    hooks = [part.register_forward_pre_hook(lambda net, given: seen.append(len(given[0]))) for part in parts]
    assert torch.allclose(small.to_latents(x), z, atol=1e-5) and torch.allclose(small.to_images(z), back, atol=1e-5)
    for hook in hooks: hook.remove()
    assert seen == [td.AT_A_TIME, td.AT_A_TIME, 3]*2


def test_only_the_prompt_has_a_gradient_and_training_moves_nothing_else(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    z = torch.randn(6, 4, 8, 8)
    log = td.train_prompt(model, z, ['Chest radiograph.', 'edema.']*3, steps=4, batch=3, every=2)
    assert list(log.step) == [2, 4] and log.loss.gt(0).all()
    after = model.state_dict()
    assert [k for k, v in before.items() if not torch.equal(after[k], v)] == ['prompt']
    assert all(p.grad is None for n, p in model.named_parameters() if n != 'prompt') and not model.train().training


def test_training_the_prompt_lowers_the_loss_on_the_same_noise(small):
    z, text = torch.randn(64, 4, 8, 8)*.1 + 1, ['edema.']*64
    score = lambda: small.loss(z, small.encode(text), torch.Generator().manual_seed(0)).item()
    before = score()
    td.train_prompt(small, z, text, steps=12, batch=16, lr=.05, drop=0.)
    assert score() < before


def test_guidance_zero_is_blind_to_the_sentence_and_one_is_the_conditional_answer(model):
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 800])
    e, e0 = model.encode(['edema.']*2), model.encode(['']*2)
    with torch.no_grad():
        given, without = (model.unet(z, t, encoder_hidden_states=k).sample for k in (e, e0))
        for w in (0, 0., 1, 2.5, -1):
            expected = without + w*(given - without)
            assert torch.allclose(td.predict_guided(model.unet, z, t, e, e0, w), expected, atol=1e-4)
    blind = [model.sample([text]*2, w=0, steps=2) for text in ('edema.', 'fracture.')]
    guided = [model.sample([text]*2, w=3, steps=2) for text in ('edema.', 'fracture.')]
    assert torch.equal(*blind) and not torch.equal(*guided)


def test_prompt_stands_behind_both_texts_and_can_be_left_away(model):
    e, e0, bare = model.encode(['edema.']), model.encode(['']), model.encode(['edema.'], prompt=False)
    n = model.prompt.shape[1]
    assert torch.equal(e[:, -n:], e0[:, -n:]) and torch.equal(e[:, :-n], bare)
    assert not torch.equal(e[:, :-n], e0[:, :-n])
    assert torch.allclose(e[0, -n:], model.prompt[0])


@pytest.mark.parametrize('scheduler', [
    None, 'DDIM', 'PNDMScheduler', 'DPMSolverMultistep', 'EulerDiscrete', 'EulerAncestralDiscrete', 'DDPM',
    'UniPCMultistep', 'HeunDiscrete'])
def test_any_scheduler_and_neither_neighbours_nor_batch_choose_an_image(model, scheduler):
    text, kw = ['edema.', 'fracture.', 'edema.'], dict(steps=4, scheduler=scheduler)
    together = model.sample(text, seeds=[7, 8, 9], **kw)
    assert together.shape[1] == 1 and torch.isfinite(together).all()
    alone = [model.sample([t], seeds=[s], **kw) for t, s in zip(text, (7, 8, 9))]
    alone = torch.cat(alone)
    assert torch.allclose(together, alone, atol=1e-3) and not torch.allclose(together[0], together[2], atol=1e-3)
    assert torch.equal(together, model.sample(text, seeds=[7, 8, 9], **kw))


def test_scheduler_may_be_a_class_or_an_object_and_a_wrong_name_is_refused(small):
    import diffusers
    for wanted in (diffusers.DDIMScheduler, diffusers.DDIMScheduler.from_config(small.scheduler.config)):
        assert torch.equal(small.sample(['edema.'], steps=2, scheduler=wanted), small.sample(['edema.'], steps=2))
    with pytest.raises(ValueError, match='diffusers has no NoSuchScheduler'):
        small.sample(['edema.'], scheduler='NoSuch')


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'sample'])
def test_what_a_perfect_answer_implies_is_the_truth(kind, small):
    levels, t = small.scheduler.alphas_cumprod, torch.tensor([0, 100, 500, 900, 999])
    z, eps = torch.randn(2, 5, 4, 2, 2)
    noisy, target = td.add_noise(levels, kind, z, eps, t)
    assert torch.allclose(td.predict_clean(levels, kind, noisy, target, t), z, atol=1e-3)
    assert torch.allclose(noisy[:1], z[:1], atol=.2)
    assert torch.allclose(noisy[-1:], eps[-1:], atol=.5)
    with pytest.raises(ValueError, match='velocity'): td.add_noise(levels, 'velocity', z, eps, t)


def test_another_size_than_the_denoiser_was_made_for(model):
    assert model.sample(['edema.'], steps=1, size=4*model.stride).shape[-1] == 4*model.stride
    with pytest.raises(ValueError, match='multiples'): model.sample(['edema.'], steps=1, size=4*model.stride + 1)

# ---- precision, offload, folders ----


def test_half_precision_on_a_processor_becomes_full_with_a_warning(sd_folder):
    with pytest.warns(UserWarning, match='float32'): model = open_model(sd_folder, dtype=torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    cuda, cpu = torch.device('cuda'), torch.device('cpu')
    assert td.choose_dtype(None, cuda) == td.choose_dtype(torch.float16, cuda) == torch.float16
    assert td.choose_dtype(torch.bfloat16, cpu) == torch.bfloat16
    assert td.choose_dtype(None, cpu) == torch.float32


def test_a_lower_precision_runs_and_the_prompt_stays_full(sd_folder):
    model = open_model(sd_folder, dtype=torch.bfloat16)
    assert model.prompt.dtype == torch.float32 and model.unet.dtype == torch.bfloat16
    assert model.sample(['edema.'], steps=2).dtype == torch.float32
    td.train_prompt(model, torch.randn(2, 4, 8, 8), ['edema.']*2, steps=2)
    assert torch.isfinite(model.prompt).all()


def test_offload_moves_one_part_at_a_time_and_changes_no_image(small_folder, monkeypatch):
    whole, lazy = (open_model(small_folder, offload=offload) for offload in (False, True))
    moves = []
    for name in ('vae', 'unet', 'text_encoder'):
        def note(where, name=name): moves.append((name, str(where)))
        monkeypatch.setattr(getattr(lazy, name), 'to', note)
    assert torch.equal(lazy.sample(['edema.'], steps=2), whole.sample(['edema.'], steps=2))
    assert moves == [(name, 'cpu') for name in ('text_encoder',)*4 + ('unet',)*2 + ('vae',)*2]   # there and back


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no accelerator')
def test_offload_leaves_the_accelerator_empty(sd_folder):
    model = td.PromptLatentDiffusion.from_pretrained(sd_folder, device='cuda', offload=True)
    assert torch.isfinite(model.sample(['edema.'], steps=2)).all()
    assert {p.device.type for p in model.unet.parameters()} == {'cpu'}


def test_a_saved_model_is_the_same_model(small, tmp_path):
    small.prompt.data.normal_()
    small.save(tmp_path/'a')
    again = open_model(tmp_path/'a')
    assert torch.equal(again.prompt, small.prompt)
    assert torch.equal(again.sample(['edema.'], steps=2), small.sample(['edema.'], steps=2))
    assert open_model(tmp_path/'a', tokens=3).prompt.shape == (1, 3, 64)
    import diffusers
    unet = diffusers.UNet2DConditionModel
    assert isinstance(unet.from_pretrained(tmp_path/'a'/'unet'), unet)


def test_a_prompt_of_classes_travels_alone(small_folder, sd_folder, tmp_path):
    model = open_model(small_folder, classes=['Fracture', 'Hernia'], tokens=2)
    z = torch.randn(4, 4, 8, 8)
    td.train_prompt(model, z, ['hernia.']*4, which=[1]*4, steps=2, batch=2)
    assert not model.prompt.grad[0].any() and model.prompt.grad[1].any()
    with pytest.raises(ValueError, match='say which'): model.encode(['hernia.'])
    model.save_prompt(tmp_path/'p.safetensors')
    again = open_model(small_folder).load_prompt(tmp_path/'p.safetensors')
    assert again.classes == ['Fracture', 'Hernia'] and torch.equal(again.prompt, model.prompt)
    assert not torch.equal(again.encode(['hernia.'], [0]), again.encode(['hernia.'], [1]))
    other = open_model(sd_folder)
    with pytest.raises(ValueError, match='64 wide'): other.load_prompt(tmp_path/'p.safetensors')


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path, sd_folder):
    import shutil
    with pytest.raises(FileNotFoundError, match='no pipeline folder.*unet/config.json'): open_model(tmp_path/'nothing')
    shutil.copytree(sd_folder, tmp_path/'cut')
    weights = tmp_path/'cut'/'unet'/'diffusion_pytorch_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match='cut/unet cannot be read'): open_model(tmp_path/'cut')


def test_parts_of_different_models_are_refused(small, sd_folder):
    other = open_model(sd_folder)
    with pytest.raises(ValueError, match='text encoder is 64 wide and the denoiser expects 32'):
        td.PromptLatentDiffusion(small.vae, other.unet, small.text_encoder, small.tokenizer, small.scheduler)
    import diffusers
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match='noise levels'):
        td.PromptLatentDiffusion(small.vae, small.unet, small.text_encoder, small.tokenizer, flow)


def test_an_absent_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ImportError, match=r'pip install cxr-workbench\[diffusion\]'): td.build_small_parts(NAMES)


def test_fp16_files_alone_are_found(sd_folder, tmp_path):
    import shutil
    shutil.copytree(sd_folder, tmp_path/'half')
    for name in ('vae/diffusion_pytorch_model', 'unet/diffusion_pytorch_model', 'text_encoder/model'):
        file = tmp_path/'half'/f'{name}.safetensors'
        file.rename(file.with_suffix('.fp16.safetensors'))
    open_model(tmp_path/'half')

# ---- sentences and requests ----


@pytest.mark.parametrize('given, text', [
    ((['Edema', 'Mass'], 60, 'F'), '60 year old female. Chest radiograph showing Edema, Mass.'),
    ((['Edema'], 60.0, None), '60 year old. Chest radiograph showing Edema.'),
    ((['Edema'], float('nan'), 'Male'), 'male. Chest radiograph showing Edema.'),
    (([], None, ''), 'Chest radiograph.')])
def test_sentences(given, text): assert td.write_sentence(*given) == text


@pytest.mark.parametrize('age, years', [
    ('060Y', 60), ('018M', 1.5), (' 7 ', 7), (41.0, 41), ('052W', 1)])
def test_ages_of_dicom(age, years):
    assert td.parse_age(age) == pytest.approx(years, abs=.01)
    assert td.write_sentence([], age).startswith(f'{years:.0f} year old')


def test_missing_ages_and_strange_ones():
    assert td.write_sentence(['Edema'], pd.NA, pd.NaT) == 'Chest radiograph showing Edema.'
    with pytest.raises(ValueError, match="age='old': give years"): td.write_sentence([], 'old')


def test_one_bare_sentence_and_unequal_lists_are_refused(small):
    with pytest.raises(ValueError, match=r"list of sentences is wanted: \['Chest"): small.sample('Chest radiograph.')
    z = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match='2 latents and 3 sentences'): td.train_prompt(small, z, ['edema.']*3, steps=1)


def test_a_prompt_longer_than_the_encoder_takes_is_refused_before_anything_is_drawn(small, sd_folder, tmp_path):
    requests = tr.tail_requests(table(), tail=['Hernia'])
    requests.loc[2, 'prompt'] = td.write_sentence(NAMES*9)
    with pytest.raises(ValueError, match='the text encoder takes 48'): tr.generate(small, requests, tmp_path/'out')
    assert not (tmp_path/'out').exists()
    model = open_model(sd_folder)
    with pytest.raises(ValueError, match='the text encoder takes 77'): model.encode([td.write_sentence(NAMES*9)])


def test_budget():
    assert tr.count_wanted([10, 100, 200, 600]).tolist() == [20, 200, 300, 0]
    assert tr.count_wanted([5], most=8, times=2).tolist() == [3]


def test_requests_copy_whole_rows_of_real_patients_and_lift_every_class():
    data = table(meta=pd.DataFrame(dict(Age=np.arange(40) + 20, Sex=['M', 'F']*20)))
    requests = tr.tail_requests(data, tail=['Fracture', 'Hernia'], seed=3)
    source = requests.source.to_numpy()
    assert (requests[NAMES].to_numpy(float) == data.y[source].numpy()).all()
    assert (requests.patient_id == data.patient_id[source]).all()
    assert all(row[row.target] == 1 for _, row in requests.iterrows())
    count = data.y.sum(0).numpy()
    assert (count[1:] + requests[NAMES].to_numpy(float).sum(0)[1:] >= 3*count[1:]).all()
    who = f'{source[0] + 20} year old {["male", "female"][source[0] % 2]}.'
    assert requests.prompt[0].startswith(f'{who} Chest radiograph showing ')
    same, other = (tr.tail_requests(data, tail=['Fracture', 'Hernia'], seed=seed) for seed in (3, 4))
    assert requests.equals(same) and not requests.equals(other)
    used = requests[requests.target == 'Fracture'].source.value_counts()
    assert used.max() - used.min() <= 1 or len(used) < count[1]   # all of a class before one comes again


def test_unknown_labels_of_the_source_stay_unknown_and_generated_rows_are_no_source():
    data = table()
    known = np.ones((40, 3), bool); known[:, 0] = False
    marked = np.zeros(40, bool); marked[:2] = True
    data = from_arrays(data.images, data.y, known, patient_id=data.patient_id, label_names=NAMES, synthetic=marked)
    requests = tr.tail_requests(data, tail=['Fracture'])
    assert requests['Edema'].isna().all() and not requests.prompt.str.contains('Edema').any()
    assert not requests.source.isin([0, 1]).any()


def test_what_cannot_be_asked_for_is_refused():
    none = table(); none.y[:, 1] = 0
    with pytest.raises(ValueError, match=r"no real image shows \['Fracture'\]"):
        tr.tail_requests(none, tail=['Fracture'])
    with pytest.raises(ValueError, match='no patients'): tr.tail_requests(table(patients=False), tail=['Fracture'])
    with pytest.raises(ValueError, match='no labels of this table'): tr.tail_requests(table(), tail=['Pneumonia'])
    with pytest.raises(ValueError, match='no label is rare'): tr.tail_requests(table())


# ---- a folder that fills up ----


def run(model, out, requests=None, **kw):
    if requests is None: requests = tr.tail_requests(table(), tail=['Fracture', 'Hernia'], most=30)
    return tr.generate(model, requests, out, **{'judge': agree, 'batch_size': 4, 'steps': 1, **kw})


def pictures(out): return {p.name: p.read_bytes() for p in (out/'images').glob('*.png')}


def test_the_table_is_one_that_from_csv_reads(small, tmp_path):
    made = run(small, tmp_path/'out')
    data = from_csv(tmp_path/'out'/'table.csv', labels=NAMES, patient='patient_id', size=16)
    assert len(data) == len(made) > 5 and data.synthetic.all() and (data.patient_id == made.patient_id).all()
    assert (data.y.numpy() == made[NAMES].to_numpy(float)).all()
    assert data.batch([0]).x.shape == (1, 1, 16, 16)
    real = table()
    both = tr.append_generated(real, tmp_path/'out')
    assert len(both) == 40 + len(made) and both.synthetic.sum() == len(made) and both.images.dtype == np.uint8
    train, held = split_by_patient(both, fraction=.3)
    assert not both.synthetic[held].any() and not set(both.patient_id[train]) & set(both.patient_id[held])


def test_generated_rows_behind_another_table_are_refused(small, tmp_path):
    run(small, tmp_path/'out')
    other = table().subset(np.arange(40)[::-1].copy())
    for data in (other, table().subset(range(3))):
        with pytest.raises(ValueError, match='give the table that the requests were made of'):
            tr.append_generated(data, tmp_path/'out')


def test_how_files_are_read_and_further_columns_stay(small, tmp_path):
    made = run(small, tmp_path/'out')
    g, paths = np.random.default_rng(0), []
    for i in range(40):
        paths.append(str(tmp_path/f'{i}.png'))
        Image.fromarray(g.integers(0, 256, (16, 24), dtype=np.uint8)).save(paths[-1])
    real = table()
    rows = dict(patient_id=real.patient_id, label_names=NAMES, meta=pd.DataFrame({'age': range(40)}))
    cropped = from_arrays(paths, real.y, size=16, fit='crop', **rows)
    both = tr.append_generated(cropped, tmp_path/'out')
    assert torch.equal(both.batch(range(40)).x, cropped.batch(range(40)).x)
    age = both.meta.age
    assert age[:40].tolist() == list(range(40))
    assert age[40:].isna().all() and len(age) == 40 + len(made)


def test_nothing_kept_leaves_the_table_as_it_is(small, tmp_path):
    real = table()
    assert not len(run(small, tmp_path/'out', judge=lambda x: torch.zeros(len(x), 3), tries=1))
    with pytest.warns(UserWarning, match='stays as it is'): assert tr.append_generated(real, tmp_path/'out') is real


def test_images_that_are_no_numbers_are_not_written(small, tmp_path, monkeypatch):
    def sample(model, texts, **kw): return torch.full((len(texts), 1, 16, 16), float('nan'))
    monkeypatch.setattr(td.PromptLatentDiffusion, 'sample', sample)
    with pytest.raises(ValueError, match='read the weights in float32'): run(small, tmp_path/'out', judge=None)
    assert not pictures(tmp_path/'out') and not len(pd.read_csv(tmp_path/'out'/'tries.csv'))


def test_generated_files_go_behind_files(small, tmp_path):
    run(small, tmp_path/'out')
    paths = []
    for i in range(40):
        paths.append(str(tmp_path/f'{i}.png'))
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(paths[-1])
    real = table()
    files = from_arrays(paths, real.y, patient_id=real.patient_id, label_names=NAMES, size=16)
    both = tr.append_generated(files, tmp_path/'out')
    assert isinstance(both.images, FileImages) and both.batch([0, 41]).x.shape == (2, 1, 16, 16)
    assert set(both.patient_id[40:]) <= set(both.patient_id[:40])


@pytest.mark.parametrize('killed_at', [1, 2])
def test_a_killed_run_goes_on_and_gives_the_same(small, tmp_path, monkeypatch, killed_at):
    whole, calls, drawn = run(small, tmp_path/'whole'), [], []
    draw = td.PromptLatentDiffusion.sample
    def counting(model, texts, **kw):
        if len(calls) == killed_at: raise KeyboardInterrupt
        calls.append(1); drawn.extend(kw['seeds'])
        return draw(model, texts, **kw)
    monkeypatch.setattr(td.PromptLatentDiffusion, 'sample', counting)
    with pytest.raises(KeyboardInterrupt): run(small, tmp_path/'cut')
    kept = pictures(tmp_path/'cut')
    assert len(kept) == 4*killed_at and len(pd.read_csv(tmp_path/'cut'/'table.csv')) == 4*killed_at
    with open(tmp_path/'cut'/'tries.csv', 'a') as log: log.write('4,0,0.9')   # a line that was cut off
    calls.append('again')
    calls.extend([0]*5)
    again = run(small, tmp_path/'cut')
    finished = pictures(tmp_path/'cut')
    assert again.equals(whole) and finished == pictures(tmp_path/'whole') and kept.items() <= finished.items()
    assert len(drawn) == len(set(drawn)) == len(whole)                                         # nothing was drawn twice


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(small, tmp_path, monkeypatch):
    whole = run(small, tmp_path/'whole')
    draw, sizes, fits = td.PromptLatentDiffusion.sample, [], [3]
    def tight(model, texts, **kw):
        sizes.append(len(texts))
        if len(texts) > fits[0]: raise torch.OutOfMemoryError('CUDA out of memory')
        if len(sizes) == 5: fits[0] = 0
        return draw(model, texts, **kw)
    monkeypatch.setattr(td.PromptLatentDiffusion, 'sample', tight)
    with pytest.raises(RuntimeError, match=r'memory does not hold one image .*: 6 of \d+ images are kept'):
        run(small, tmp_path/'tight', batch_size=8)
    assert sizes == [8, 4, 2, 2, 2, 2, 1] and len(pictures(tmp_path/'tight')) == 6
    fits[0] = 100
    again = run(small, tmp_path/'tight', batch_size=8)
    assert again.drop(columns='probability').equals(whole.drop(columns='probability'))
    for name in pictures(tmp_path/'whole'):
        pair = [np.asarray(Image.open(tmp_path/d/'images'/name), int) for d in ('whole', 'tight')]
        assert np.abs(pair[0] - pair[1]).max() <= 1


@pytest.mark.parametrize('error, ours', [
    (torch.OutOfMemoryError('x'), True), (MemoryError(), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
    (RuntimeError('shape mismatch'), False), (ValueError("can't allocate memory"), False)])
def test_what_counts_as_out_of_memory(error, ours): assert tr.is_out_of_memory(error) is ours


def test_another_error_is_not_swallowed(small, tmp_path, monkeypatch):
    def sample(*args, **kw): raise RuntimeError('shape mismatch')
    monkeypatch.setattr(td.PromptLatentDiffusion, 'sample', sample)
    with pytest.raises(RuntimeError, match='shape mismatch'): run(small, tmp_path/'out')


def test_the_filter_tries_again_with_other_noise_and_gives_up(small, tmp_path):
    seen = []
    def judge(x):
        seen.append(len(x))
        return torch.tensor([.2, .2, .9]).expand(len(x), 3)                                     # no fracture, ever
    kept = run(small, tmp_path/'out', judge=judge, tries=2)
    tried = pd.read_csv(tmp_path/'out'/'tries.csv')
    requests = tr.tail_requests(table(), tail=['Fracture', 'Hernia'], most=30)
    assert set(kept.target) == {'Hernia'} and len(kept) == (requests.target == 'Hernia').sum()
    assert len(pictures(tmp_path/'out')) == len(kept)
    fractures = requests.index[requests.target == 'Fracture']
    assert tried.groupby('request').size().loc[fractures].eq(2).all()
    assert (tried.kept == (tried.probability >= .5)).all()
    again = run(small, tmp_path/'out', judge=judge, tries=2)
    assert again.equals(kept) and sum(seen) == len(tried)   # done: nothing is drawn again


def test_another_run_in_the_same_folder_is_refused(small, tmp_path):
    run(small, tmp_path/'out')
    requests = tr.tail_requests(table(), tail=['Hernia'])
    settings = [dict(seed=1), dict(steps=2), dict(w=1.), dict(threshold=.6)]
    for changed in (*settings, dict(requests=requests)):
        with pytest.raises(ValueError, match='another run'): run(small, tmp_path/'out', **changed)
    run(small, tmp_path/'out', batch_size=2)   # another batch size is the same run
    with torch.no_grad(): small.unet.conv_out.bias += 1
    with pytest.raises(ValueError, match='another run'): run(small, tmp_path/'out')             # another model


@pytest.mark.parametrize('columns, value, message', [
    (2, .5, 'shape'), (3, 4., 'not logits'), (3, float('nan'), 'not logits')])
def test_a_judge_that_gives_no_probabilities_is_refused(small, tmp_path, columns, value, message):
    def judge(x): return torch.full((len(x), columns), value)
    with pytest.raises(ValueError, match=message): run(small, tmp_path/'out', judge=judge)
    assert not pictures(tmp_path/'out')


def test_no_judge_keeps_everything_and_no_request_is_an_error(small, tmp_path):
    assert run(small, tmp_path/'out', judge=None).probability.isna().all() or len(pictures(tmp_path/'out'))
    none = tr.tail_requests(table(), tail=['Hernia']).iloc[:0]
    with pytest.raises(ValueError, match='no requests'): run(small, tmp_path/'none', requests=none)


def test_class_prompts_serve_their_classes_only(small_folder, tmp_path):
    model = open_model(small_folder, classes=['Fracture'], tokens=2)
    with pytest.raises(ValueError, match=r"no tokens for \['Hernia'\]"): run(model, tmp_path/'out')
    assert len(run(model, tmp_path/'out', requests=tr.tail_requests(table(), tail=['Fracture'])))


def test_even_odds_takes_the_prior_out():
    logits = torch.logit(torch.tensor([[.02, .5]]))
    judge = tr.remove_prior(lambda x: logits.expand(len(x), 2), [.02, .5])
    assert torch.allclose(judge(torch.rand(3, 1, 8, 8)), torch.full((3, 2), .5), atol=1e-5)



def test_even_odds_stills_the_classifier_and_goes_where_it_is():
    linear = torch.nn.Linear(64, 2)
    net = torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.BatchNorm1d(2)).double()
    before, x = copy.deepcopy(net.state_dict()), torch.rand(5, 1, 8, 8)
    judge = tr.remove_prior(lambda x: net(x.double()), [.3, .3])
    assert net.training and torch.isfinite(judge(x)).all()
    net.load_state_dict(before)
    judge = tr.remove_prior(net.float(), [.3, .3])
    mean = net.state_dict()['2.running_mean']
    assert torch.equal(judge(x)[:2], judge(x[:2])) and torch.equal(mean, before['2.running_mean'].float())


def test_a_model_that_is_moved_knows_where_it_is(small):
    meta = torch.device('meta')
    assert small.to('meta').device == meta
    assert small.to_latents(torch.rand(1, 1, 16, 16, device='meta')).device == meta


def test_a_denoiser_that_waits_is_no_place_to_train(small_folder):
    model = td.PromptLatentDiffusion.from_pretrained(small_folder, device='meta', dtype=torch.float32, offload=True)
    z, e = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 64)
    with pytest.raises(ValueError, match='model.on_device'): model.loss(z, e)


def test_noise_levels_below_a_bound(small, monkeypatch):
    seen = []
    monkeypatch.setattr(td, 'predict_guided', lambda unet, z, t, e: seen.extend(t.tolist()) or torch.zeros_like(z))
    z, e = torch.zeros(16, 4, 8, 8), torch.zeros(16, 4, 64)
    for _ in range(20): small.loss(z, e, last=50)
    assert max(seen) < 50 and len(set(seen)) > 40


def test_a_decoder_is_bettered_alone():
    parts = build_tiny()
    x = torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8)
    td.train_autoencoder(parts['vae'], x, steps=5, batch=6)
    before, scale, calls = copy.deepcopy(parts['vae'].state_dict()), parts['vae'].config.scaling_factor, []
    def tell(step, rows): calls.append((step, len(rows)))
    log = td.train_autoencoder(parts['vae'], x, steps=30, batch=6, encoder=False, every=10, tell=tell)
    assert parts_changed(parts['vae'], before) == {'decoder', 'post_quant_conv'}
    assert parts['vae'].config.scaling_factor == scale and log.loss.iloc[-1] < log.loss.iloc[0]
    assert calls[8] == (9, 0) and calls[-1] == (30, 3)
    assert not any(p.requires_grad for p in parts['vae'].parameters())

# ---- the embedded model ----


def test_training_the_base_moves_denoiser_and_text_encoder_and_leaves_them_frozen():
    parts = build_tiny()
    model = td.PromptLatentDiffusion(**parts, tokens=2)
    x = torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8)
    log = td.train_autoencoder(model.vae, x, steps=30, batch=6)
    assert log.loss.iloc[-1] < log.loss.iloc[0]
    assert model.to_latents(x.float()/255).std() == pytest.approx(1, abs=.05)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    td.train_base(model, model.to_latents(x.float()/255), ['edema.']*12, steps=3, batch=4, decay=.5)
    assert parts_changed(model, before) == {'unet', 'text_encoder'}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {'prompt'}
    nothing = torch.full((2, 4, 8, 8), float('nan'))
    with pytest.raises(ValueError, match='the loss of step 0 is nan'):
        td.train_prompt(model, nothing, ['edema.']*2, steps=2)


def test_the_packaged_model_opens_and_draws():
    model = open_model(td.find_packaged())
    x = model.sample([td.write_sentence(['Edema'])], steps=4)
    assert x.shape == (1, 1, 64, 64) and .1 < x.mean() < .9 and x.std() > .05


@pytest.mark.parametrize('command', [('referee', '--epochs', 1), ('diffusion', '--steps', 4)])
def test_the_command_that_made_the_packaged_models_still_runs(command, tmp_path):
    import subprocess
    from pathlib import Path
    script = Path(__file__).resolve().parent.parent/'scripts'/'train_pages.py'
    options = ['--rows', '120', '--out', str(tmp_path)]
    run = subprocess.run([sys.executable, str(script), *map(str, command), *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    if command[0] == 'referee':
        from cxr_workbench.learner import load
        assert load(tmp_path/'referee').labels == 14 and len(pd.read_csv(tmp_path/'referee'/'history.csv')) == 1
        return
    made = open_model(tmp_path/'diffusion')
    assert made.sample([td.write_sentence(['Edema'])], steps=2).shape == (1, 1, 64, 64)
    assert not (tmp_path/'diffusion'/'unfinished').exists()
    log = pd.read_csv(tmp_path/'diffusion'/'history.csv')
    assert log.part.unique().tolist() == ['autoencoder', 'base', 'fine', 'decoder', 'prompt']
    assert len(pd.read_csv(tmp_path/'diffusion'/'recognised.csv')) == 12


# ---- folders that are not whole ----

WEIGHTS = dict(vae='diffusion_pytorch_model', unet='diffusion_pytorch_model', text_encoder='model')


@pytest.fixture
def broken(small_folder, tmp_path):
    "A copy of a folder, and a function that changes the tensors of one part."
    import shutil
    from safetensors.torch import load_file, save_file
    shutil.copytree(small_folder, tmp_path/'pipeline')
    def change(part, edit):
        file = tmp_path/'pipeline'/part/f'{WEIGHTS[part]}.safetensors'
        state = load_file(file)
        name = sorted(name for name in state if name.endswith('weight'))[-1]
        edit(state, name)
        save_file(state, file)
        return name
    return tmp_path/'pipeline', change


@pytest.mark.parametrize('part', WEIGHTS)
def test_a_missing_tensor_is_named_and_not_filled_with_noise(broken, part):
    folder, change = broken
    name = change(part, lambda state, name: state.pop(name))
    with pytest.raises(ValueError, match=f'{part}.*lacks tensors') as caught: open_model(folder)
    assert name in str(caught.value) and 'copy' not in str(caught.value)


@pytest.mark.parametrize('part', WEIGHTS)
def test_a_tensor_without_a_place_is_named(broken, part):
    folder, change = broken
    change(part, lambda state, name: state.update(stranger=torch.zeros(2)))
    with pytest.raises(ValueError, match=f'{part}.*no place: stranger'): open_model(folder)


@pytest.mark.parametrize('part', WEIGHTS)
def test_a_tensor_of_another_shape_is_no_damaged_file(broken, part):
    folder, change = broken
    change(part, lambda state, name: state.update({name: torch.zeros(3, *state[name].shape)}))
    with pytest.raises(ValueError, match=f'{part}.*one and the same model') as caught: open_model(folder)
    assert 'copy the folder' not in str(caught.value)


def pickled(folder, part, suffix='.fp16.bin', extra=None):
    "Turn the weights of a part into a pickled file of half precision."
    from safetensors.torch import load_file
    file = folder/part/f'{WEIGHTS[part]}.safetensors'
    state = {name: t.half() for name, t in load_file(file).items()}
    file.unlink()
    stem = 'pytorch_model' if part == 'text_encoder' else WEIGHTS[part]
    torch.save({**state, **(extra or {})}, folder/part/f'{stem}{suffix}')


@pytest.mark.parametrize('suffix', ['.fp16.bin', '.bin'])
def test_pickled_weights_are_read_for_their_tensors(broken, small_folder, suffix):
    folder, _ = broken
    for part in WEIGHTS: pickled(folder, part, suffix)
    again, whole = open_model(folder), open_model(small_folder)
    for part in WEIGHTS:
        for name, value in getattr(whole, part).state_dict().items():
            assert torch.equal(getattr(again, part).state_dict()[name], value), name


@pytest.mark.parametrize('part', WEIGHTS)
def test_a_pickled_file_that_runs_code_is_not_open_model(broken, part, tmp_path):
    class Evil:
        def __reduce__(self): return (__import__('pathlib').Path.touch, (tmp_path/'ran',))
    folder, _ = broken
    pickled(folder, part, extra=dict(evil=Evil()))
    with pytest.raises(ValueError, match=f'{part} cannot be read') as caught: open_model(folder)
    assert 'safetensors' in str(caught.value) and not (tmp_path/'ran').exists()


def test_a_part_without_weights_says_what_is_there(broken):
    folder, _ = broken
    (folder/'unet'/'diffusion_pytorch_model.safetensors').rename(folder/'unet'/'model.ckpt')
    with pytest.raises(FileNotFoundError, match=r'unet holds no weights.*model\.ckpt'): open_model(folder)


def test_noise_levels_are_not_made_up(broken):
    folder, _ = broken
    file = folder/'scheduler'/'scheduler_config.json'
    config = json.loads(file.read_text())
    for key in ('beta_start', 'beta_schedule'):
        file.write_text(json.dumps({k: v for k, v in config.items() if k != key}))
        with pytest.raises(ValueError, match=f'scheduler does not say {key}'): open_model(folder)
    file.write_text(json.dumps({**config, '_class_name': 'TomorrowScheduler'}))
    with pytest.raises(ValueError, match='scheduler.*another version of diffusers'): open_model(folder)


def test_a_tokenizer_without_its_words_is_refused(sd_folder, tmp_path):
    import shutil
    shutil.copytree(sd_folder, tmp_path/'dumb')
    for name in ('vocab.json', 'merges.txt', 'tokenizer.json'):
        (tmp_path/'dumb'/'tokenizer'/name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match='tokenizer'): open_model(tmp_path/'dumb')


@pytest.mark.parametrize('content, says', [
    (b'no tensors at all', 'no file of save_prompt'), (dict(other=torch.zeros(1, 2, 64)), 'no file of save_prompt'),
    (dict(prompt=torch.zeros(3, 4, 64)), 'one set for each'),
    (dict(prompt=torch.full((1, 4, 64), float('nan'))), 'no numbers')])
def test_a_prompt_file_that_is_none_is_refused(small, tmp_path, content, says):
    from safetensors.torch import save
    metadata = {'classes': 'null'}
    (tmp_path/'p.safetensors').write_bytes(content if isinstance(content, bytes) else save(content, metadata))
    before = small.prompt.clone()
    with pytest.raises(ValueError, match=says): small.load_prompt(tmp_path/'p.safetensors')
    assert torch.equal(small.prompt, before)


def test_a_pointer_is_no_damaged_file(broken):
    folder, _ = broken
    file = folder/'vae'/'diffusion_pytorch_model.safetensors'
    file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    with pytest.raises(ValueError, match='git lfs pull'): open_model(folder)
