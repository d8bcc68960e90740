"""AV-SyncNet learns to read and to align, SyncTalklip's losses reach what they should in each variant, runs resume."""

from dataclasses import asdict, fields, replace

import pytest
import torch
import torch.nn.functional as F
from expert_runs import batch_of, begin, step
from expert_runs import go as go_expert
from small_experts import EXPERT, GUIDED, reader, write_expert
from small_runs import CPU, command, flags_of, flat, go, gradients, metrics, stilled

import checkpoint
import train
from data import GuidedClips, collate
from errors import InputError
from experts.guidance import LipExpert
from experts.lip_reader import load_reader
from hparams import METHODS, PRESETS, WEIGHTS, ExpertHParams, HParams, preset
from losses import cav_loss, l1_distance
from models import build_generator, build_reader
from models.synctalklip import AVSyncNetConv, NeighbourMean
from train_expert import objective_weights
from training import ENOUGH, DivergenceGuard

torch.set_num_threads(1)
ALIGNED, CONV = {"align_weight": 1.0}, {"align_weight": 1.0, "align_kernel": 3}
SYNCTALKLIP = replace(GUIDED, contrastive_weight=0.0, cav_weight=0.05, supervisor="avsyncnet")
VARIANTS = {  # knobs of a run, and of its supervisor
    "base": ({}, ALIGNED),
    "conv, sounds as negatives": ({"supervisor": "conv", "cav_negatives": "audio"}, CONV),
    "freeze, sum": ({"cav_audio": "frozen", "cav_sum": True, "cav_apart": 1}, ALIGNED),
}
EVERYTHING = {"lip_from": 0, "audio_from": 0, "audio_train_layers": 0, "audio_dropout": 0.0, "audio_layerdrop": 0.0}


# The networks


def test_the_published_sizes_are_those_of_the_paper():
    hp, run = preset("avsyncnet", ExpertHParams), preset("synctalklip")
    assert (hp.layers, hp.dim, hp.ffn, hp.heads, hp.max_steps) == (24, 1024, 4096, 16, 180_000)
    assert (run.audio_layers, run.audio_dim, run.audio_ffn, run.audio_heads, run.max_steps) == (
        *(24, 1024, 4096, 16),
        60_000,
    )
    with torch.device("meta"):
        net, tower = build_reader(hp, 1000), build_generator(run).speech
        conv = build_reader(preset("avsyncnet_conv", ExpertHParams), 1000)
    attention, feed_forward, norms = 4 * (1024 + 1) * 1024, 2 * 1024 * 4096 + 4096 + 1024, 4 * 1024
    counted = sum(weight.numel() for weight in net.encoder.blocks.parameters())
    assert counted == 24 * (attention + feed_forward + norms) == 302_309_376
    sizes = {name: each.shape for name, each in net.encoder.state_dict().items() if not name.startswith("video.")}
    assert sizes == {name: each.shape for name, each in tower.state_dict().items()}, "the tower begins as its encoder"
    assert conv.state_dict().keys() - net.state_dict().keys() == {"neighbours.logits"}
    assert conv.neighbours.logits.shape == (1024, 5)


def test_the_compact_tower_begins_as_the_compact_supervisors_encoder():
    with torch.device("meta"):
        net = build_reader(preset("compact_avsyncnet", ExpertHParams), 50)
        tower = build_generator(preset("compact_synctalklip")).speech
    sizes = {name: each.shape for name, each in net.encoder.state_dict().items() if not name.startswith("video.")}
    assert sizes == {name: each.shape for name, each in tower.state_dict().items()}


def test_the_mean_of_neighbours_is_that_of_the_frames_there_are():
    mean, x = NeighbourMean(2, 3), torch.tensor([[[1.0, 3.0], [2.0, 6.0], [6.0, 0.0], [4.0, 4.0]]])
    with torch.no_grad():
        mean.logits[1] = torch.tensor([1.0, 2.0, 1.0]).log()  # a quarter, a half, a quarter
    wanted = [[1.5, (3 * 2 + 6) / 3], [3.0, (3 + 12) / 4], [4.0, (6 + 4) / 4], [5.0, (2 * 4) / 3]]
    assert mean(x)[0].flatten().tolist() == pytest.approx([number for row in wanted for number in row])
    padding = torch.tensor([[False, False, False, True]])
    assert torch.allclose(mean(x.masked_fill(padding[..., None], 9.0), padding)[:, :3], mean(x[:, :3]))
    assert torch.equal(NeighbourMean(2, 1)(x), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert mean(x).dtype == torch.float32


def test_the_convolution_cannot_bring_the_distance_to_0_by_itself():
    """A free one can: it goes to 0, for nothing else looks at it."""
    torch.manual_seed(0)
    sound, lips = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    free, ours = torch.nn.Conv1d(8, 8, 3, padding=1, bias=False), NeighbourMean(8, 3)
    found = {}
    for name, net in {"free": lambda x: free(x.mT).mT, "ours": ours}.items():
        module = free if name == "free" else ours
        optim = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(150):
            loss = l1_distance(net(sound), net(lips)).mean()
            optim.zero_grad()
            loss.backward()
            optim.step()
        found[name] = loss.item()
    assert found["free"] < 0.1 and found["ours"] > 0.3
    assert ours(100 * torch.ones(1, 5, 8)).tolist() == pytest.approx(100 * torch.ones(1, 5, 8).numpy(), rel=1e-5)


# AV-SyncNet: reading and aligning


@pytest.mark.parametrize("knobs", [ALIGNED, CONV, ALIGNED | {"align_scale": 0.5}], ids=["local", "conv", "scaled"])
def test_alignment_is_the_mean_l1_distance_of_a_clips_frames(spoken_root, tmp_path, knobs):
    run = begin(spoken_root, tmp_path, "finetune", dropout=0.0, layerdrop=0.0, **knobs)
    objective, batch = run.objective.eval(), batch_of(run)
    assert batch["roi_padding"].any()
    losses = objective(batch)
    assert losses.keys() == {"reading", "align"}
    clips = []
    for i, length in enumerate(batch["lengths"].tolist()):
        encoder, net = objective.reader.encoder, objective.reader
        lips = encoder(video=net.normalised(batch["roi"][i : i + 1, :length]))
        sound = encoder(audio=batch["audio"][i : i + 1, :length])
        clips.append((net.align(sound) - net.align(lips)).abs()[0].sum(-1))
    wanted = torch.cat(clips).mean() * (knobs.get("align_scale") or 1 / run.state.hp.dim)
    assert losses["align"].item() == pytest.approx(wanted.item(), rel=1e-4)
    weights = objective_weights(replace(run.state.hp, align_weight=0.3))
    assert (weights["reading"], weights["align"]) == (1.0, 0.3), "eq. 6"


def test_a_step_of_both_losses_trains_the_sound_too(spoken_root, tmp_path):
    moved = {}
    for name, knobs in {"conv": CONV, "reading alone": {}}.items():
        run = begin(spoken_root, tmp_path, "finetune", **knobs)
        before = {key: value.clone() for key, value in run.objective.state_dict().items()}
        losses = step(run, batch_of(run))
        after = run.objective.reader
        moved[name] = not torch.equal(after.encoder.audio.weight, before["reader.encoder.audio.weight"])
        if name == "conv":
            total = losses["reading"] + losses["align"]
            assert losses["total"].item() == pytest.approx(total.item(), rel=1e-5)
            assert not torch.equal(after.neighbours.logits, before["reader.neighbours.logits"])
    assert moved["conv"]  # without the loss the weights of the sound have no gradient at all
    assert run.objective.reader.encoder.audio.weight.grad is None


def test_steps_on_both_losses_bring_sound_and_lips_together(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "finetune", lr=3e-3, rise=0.0, hold=1.0, max_steps=20, dropout=0.0, **ALIGNED)
    batch = batch_of(run)
    losses = [step(run, batch) for _ in range(12)]
    assert losses[-1]["align"] < 0.7 * losses[0]["align"] and losses[-1]["reading"] < losses[0]["reading"]


def test_a_stopped_avsyncnet_run_goes_on_as_the_same_run(spoken_root, tmp_path):
    knobs = CONV | {"max_steps": 6, "freeze": 3}
    for name, stops in {"whole": (6,), "parts": (2, 5, 6)}.items():
        for end in stops:
            run, last = begin(spoken_root, tmp_path, "finetune", **knobs), tmp_path / name / "last.pt"
            if last.is_file():
                run.state.resume(last, checkpoint.load(last))
            go_expert(run, tmp_path / name, end)
    whole, parts = (flat(checkpoint.load(tmp_path / name / "last.pt")) for name in ("whole", "parts"))
    assert whole == parts and metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_an_avsyncnet_is_a_lip_reader_wherever_one_is_asked_for(spoken_root, tmp_path):
    local, conv = (write_expert(tmp_path / f"{i}.pt", spoken_root, **each) for i, each in enumerate((ALIGNED, CONV)))
    assert type(load_reader(local).net).__name__ == "LipReader"
    whole, encoder = load_reader(conv), load_reader(conv, whole=False)
    assert isinstance(whole.net, AVSyncNetConv) and encoder.net.decoder is None
    assert torch.equal(whole.net.neighbours.logits, encoder.net.neighbours.logits)


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"align_kernel": 4, "align_weight": 1.0}, "--align_kernel 4 must be odd"),
        ({"align_kernel": 3}, "--align_kernel 3 .*asks for --align_weight"),
        ({"align_weight": 1.0, "model": "conformer"}, "--model conformer has no sound"),
    ],
)
def test_knobs_that_make_no_avsyncnet_are_refused(knobs, words):
    with pytest.raises(InputError, match=words):
        ExpertHParams(**knobs)


# SyncTalklip: the losses of a step


@pytest.fixture(scope="module")
def batch(spoken_root):
    """Two clips of unlike length, with two windows of three frames each."""
    split = GuidedClips(spoken_root, "train", GUIDED, reader(spoken_root).tokenizer, "aligned", 100)
    batch = collate([split[0], split[1]], GUIDED.window)
    assert batch["roi_padding"].any() and batch["audio_padding"].any()
    return batch


def supervisor(root, knobs):
    return LipExpert(reader(root, **knobs), CPU)


def rows_by_hand(features, padding, clip, at, align):
    """The rows of generated frames, clip by clip: (N, D). align: of one clip without padding."""
    clips = [align(row[~gone][None])[0] for row, gone in zip(features, padding, strict=True)]
    return torch.stack([clips[c][t] for c, times in zip(clip.tolist(), at.tolist(), strict=True) for t in times])


@pytest.mark.parametrize("knobs, of_expert", VARIANTS.values(), ids=VARIANTS)
def test_the_contrastive_loss_is_of_all_generated_frames_of_each_clip(spoken_root, batch, knobs, of_expert):
    teacher, hp = supervisor(spoken_root, of_expert), replace(SYNCTALKLIP, **knobs)
    speech, memory = torch.randn(*batch["audio"].shape[:2], 32), torch.randn(*batch["roi"].shape[:2], 32)
    heard = torch.stack(
        [
            F.pad(teacher.net.encoder(audio=row[~gone][None])[0], (0, 0, 0, int(gone.sum())))
            for row, gone in zip(batch["audio"], batch["audio_padding"], strict=True)
        ]
    )
    of_sound = heard if hp.cav_audio == "frozen" else speech
    align = teacher.net.align
    lips = rows_by_hand(memory, batch["roi_padding"], batch["clip"], batch["frames"], align)
    sound = rows_by_hand(of_sound, batch["audio_padding"], batch["clip"], batch["index"], align)
    others = rows_by_hand(heard, batch["audio_padding"], batch["clip"], batch["index"], align)
    others = others if hp.cav_negatives == "audio" else lips
    places = batch["clip"].repeat_interleave(3), batch["frames"].flatten()
    wanted = cav_loss(sound, lips, others, *places, 0.0, hp.cav_apart, hp.cav_sum)
    found = teacher.cav_loss(speech, memory, batch, hp)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-5)


def of_step(spoken_root, batch, hp, of_expert):
    """The losses and gradients of a step with the knobs `hp`, in which nothing moves."""
    state = stilled(train.build(replace(hp, ema=0.0), CPU), 7)
    return train.train_step(state, [batch], supervisor(spoken_root, of_expert)), gradients(state.nets), state


ALONE = replace(SYNCTALKLIP, **EVERYTHING, adv_weight=0.0, lip_weight=0.0, mouth_weight=0.0, lips_weight=0.0, lr=0.0)


def test_the_tuned_tower_hears_the_contrastive_loss_and_with_freeze_the_picture_alone_does(spoken_root, batch):
    """Every other loss but a pixel loss of weight 1e-12, without which no step would be allowed, is off."""
    found = {}
    for name, knobs in {"base": {}, "freeze": {"cav_audio": "frozen"}}.items():
        hp = replace(ALONE, l1_weight=1e-12, **knobs)
        losses, grads, _ = of_step(spoken_root, batch, hp, ALIGNED)
        assert losses.keys() == {"l1", "cav", "total", "grad_norm"}
        found[name] = losses["cav"], grads["generator", "decoder.0.0.conv.weight"], grads
    for _, picture, grads in found.values():
        assert picture.abs().max() > 1e-9 and ("generator", "sync.weight") not in grads, "no projection in L1"
    of_tower = [grads["generator", "speech.norm.weight"] for _, _, grads in found.values()]
    assert of_tower[0].abs().max() > 0 and not torch.equal(*of_tower)
    # freeze: what reaches the tuned encoder comes through the faces it shapes; base has its own embedding's part, too
    assert of_tower[0].abs().max() > 3 * of_tower[1].abs().max()


def test_the_frozen_tower_never_learns_and_gives_no_gradient(spoken_root, batch):
    teacher = supervisor(spoken_root, CONV)
    before = flat(teacher.net.state_dict())
    speech, memory = (torch.randn(*batch[part].shape[:2], 32).requires_grad_() for part in ("audio", "roi"))
    teacher.cav_loss(speech, memory, batch, replace(SYNCTALKLIP, cav_audio="frozen")).backward()
    assert speech.grad is None and memory.grad.abs().max() > 0
    assert all(weight.grad is None for weight in teacher.net.parameters())
    assert flat(teacher.net.state_dict()) == before


def test_each_network_takes_its_own_part_of_the_printed_adversarial_loss(spoken_root, batch):
    """Eq. 10 with the generated faces detached for the discriminator: its gradient is that of eq. 9 alone."""
    hp = replace(SYNCTALKLIP, adv_form="printed", adv_from=0, rec_weight=1e-5, l1_weight=0.0, **EVERYTHING)
    losses, grads, state = of_step(spoken_root, batch, replace(hp, lr=0.0), ALIGNED)
    assert losses["d_real"] < 0 and losses["d_fake"] < 0 and losses["adv"] < 0
    judge = state.nets["discriminator"]
    fake, _, _ = train.redrawn(state.nets["generator"], batch)
    real, fake = judge(batch["target"]), judge(fake.detach())
    eq_9 = F.logsigmoid(-real).mean() + F.logsigmoid(fake).mean()
    for (name, weight), wanted in zip(
        judge.named_parameters(), torch.autograd.grad(eq_9, list(judge.parameters())), strict=True
    ):
        torch.testing.assert_close(grads["discriminator", name], wanted, rtol=1e-3, atol=1e-6, msg=name)
        assert weight.requires_grad
    pixels = batch["target"][0, 0].numel()
    assert losses["rec"] > 100 and losses["rec"].item() / pixels < 1


@pytest.mark.parametrize("summed", [False, True])
def test_gathered_contrastive_losses_are_those_of_the_joined_batch(spoken_root, summed):
    hp = replace(ALONE, l1_weight=1e-12, cav_weight=1.0, cav_sum=summed, freeze_norms=True, ema=0.0)
    tokenizer, found = reader(spoken_root).tokenizer, []
    clips = [GuidedClips(spoken_root, "train", replace(hp, windows=n), tokenizer, "aligned", 100)[n] for n in (1, 2)]
    for batches in ([clips], [clips[:1], clips[1:]]):
        state = stilled(train.build(hp, CPU), 9)
        losses = train.train_step(
            state, [collate(samples, hp.window) for samples in batches], supervisor(spoken_root, ALIGNED)
        )
        found.append((losses["cav"].item(), gradients(state.nets)["generator", "speech.norm.weight"]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-7)


def test_losses_that_go_below_0_are_no_fault_of_a_run():
    guard = DivergenceGuard()
    for number in range(2 * ENOUGH):
        below = -0.001 * (1 + number)
        guard.note({name: torch.tensor(below) for name in ("cav", "adv", "d_real", "d_fake", "d_gap", "total")})
        assert guard.fault() is None and guard.warning() is None
    guard = DivergenceGuard()
    for _ in range(2 * ENOUGH):
        guard.note({name: torch.tensor(0.0) for name in ("d_real", "d_fake")})
    assert "saturated" in guard.fault()


# Runs


@pytest.mark.parametrize("knobs, of_expert", VARIANTS.values(), ids=VARIANTS)
def test_a_stopped_run_of_each_variant_goes_on_as_the_same_run(spoken_root, tmp_path, knobs, of_expert):
    hp = replace(SYNCTALKLIP, audio_dropout=0.2, audio_layerdrop=0.3, augment=0.6, **knobs)
    last, teacher = tmp_path / "parts" / "last.pt", supervisor(spoken_root, of_expert)
    go(spoken_root, tmp_path / "whole", 8, hp, teacher)
    go(spoken_root, tmp_path / "parts", 6, hp, teacher)
    go(spoken_root, tmp_path / "parts", 8, hp, teacher, last)
    assert flat(checkpoint.load(tmp_path / "whole" / "last.pt")) == flat(checkpoint.load(last))
    lines = metrics(tmp_path / "whole")
    assert lines == metrics(tmp_path / "parts")
    assert [line["step"] for line in lines if "cav" in line] == [5, 6, 7, 8]
    assert not any("contrastive" in line for line in lines)


def test_the_command_trains_under_an_avsyncnet_and_the_tower_begins_as_its_encoder(spoken_root, tmp_path, capsys):
    path = write_expert(tmp_path / "avsyncnet.pt", spoken_root, **ALIGNED)
    weights = tmp_path / "synctalklip.safetensors"
    small = [flag for flag in flags_of(SYNCTALKLIP) if "preset" not in flag]
    flags = ["--method=synctalklip", *small, "--expert", path, "--no-amp", "--warmup=0"]
    assert command(spoken_root, tmp_path, *flags, "--stop=1") == 0
    said = capsys.readouterr().err
    assert f"tiny: compact_synctalklip under {path} (the published size: --preset synctalklip --expert FILE) on" in said
    assert "cav loss x 0.05" in said
    ours = checkpoint.load(tmp_path / "tiny" / "last.pt")["generator"]
    theirs = reader(spoken_root, **ALIGNED).net.encoder.state_dict()
    assert torch.equal(ours["speech.blocks.0.up.weight"], theirs["blocks.0.up.weight"]), "frozen until step 2"
    assert command(spoken_root, tmp_path, "--stop=5", "--expert", path, "--export", weights) == 0
    assert "cav" in metrics(tmp_path / "tiny")[-2] or "cav" in metrics(tmp_path / "tiny")[-1]
    assert checkpoint.load_generator(weights)[1].model == "talklip", "which inference.py knows"
    begun = [*flags, "--name=begun", "--stop=1", "--init_faces", weights]
    assert command(spoken_root, tmp_path, *begun, "--expert", path) == 0
    trained, begun = (checkpoint.load(tmp_path / name / "last.pt")["generator"] for name in ("tiny", "begun"))
    top = "speech.blocks.1.up.weight"
    assert torch.equal(begun[top], theirs["blocks.1.up.weight"]) and not torch.equal(trained[top], begun[top])


def test_a_run_asks_for_the_supervisor_of_its_variant(spoken_root, tmp_path, capsys):
    files = {"avhubert": {}, "avsyncnet": ALIGNED, "conv": CONV}
    files = {kind: write_expert(tmp_path / f"{kind}.pt", spoken_root, **knobs) for kind, knobs in files.items()}
    names = {"avhubert": "an AV-HuBERT", "avsyncnet": "an AV-SyncNet", "conv": "an AV-SyncNet (conv)"}
    flags = flags_of(SYNCTALKLIP)
    for wanted, has in (("avsyncnet", "avhubert"), ("conv", "avsyncnet"), ("avsyncnet", "conv"), ("avhubert", "conv")):
        more = ["--supervisor", wanted, "--expert", files[has], "--width=0.125"]
        assert command(spoken_root, tmp_path, *flags, *more) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"--expert {files[has]} is {names[has]}, this run wants {names[wanted]}" in line
        preset_of = {"avsyncnet": "compact_avsyncnet", "conv": "compact_avsyncnet_conv"}.get(wanted)
        how = f"To train one: python train_expert.py finetune --preset {preset_of} --data_root {spoken_root}"
        assert (how in line) == (preset_of is not None) and (preset_of is None or preset_of in ExpertHParams.presets)
    assert not (tmp_path / "tiny").exists()


def test_the_default_expert_is_no_avsyncnet_and_says_how_to_make_one(spoken_root, tmp_path, capsys):
    assert command(spoken_root, tmp_path, "--method=synctalklip") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is an AV-HuBERT, this run wants an AV-SyncNet. To train one: python train_expert.py finetune" in line
    assert line.endswith(f"--init {WEIGHTS['expert']} --export compact_avsyncnet.safetensors")


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"speech": "local"}, "--cav_weight holds lips against the speech of --model talklip --speech global"),
        ({"adv_form": "printed", "faithful": True}, "--adv_form printed is SyncTalklip's"),
        ({"adv_form": "printed", "discriminator": "patch"}, "--adv_form printed is SyncTalklip's"),
        ({"cav_apart": 0}, "--cav_apart 0 must be at least 1"),
    ],
)
def test_knobs_that_do_not_go_together_are_refused(knobs, words):
    with pytest.raises(InputError, match=words):
        replace(SYNCTALKLIP, **knobs)


def test_a_tower_of_another_size_than_the_supervisor_is_refused(spoken_root):
    generator = train.build(replace(SYNCTALKLIP, audio_dim=64), CPU).nets["generator"]
    with pytest.raises(InputError, match="compares features of 64, --audio_dim, with the --expert's, which have 32"):
        supervisor(spoken_root, ALIGNED).check(generator, SYNCTALKLIP)


# The rows


def test_the_rows_differ_in_what_the_paper_says_and_in_nothing_else():
    of_row = {
        "": {},
        "_conv": {"supervisor": "conv"},
        "_freeze": {"cav_audio": "frozen"},
        "_wo_novel": {"cav_weight": 0.0, "contrastive_weight": 1.0},
        "_wo_contrastive": {"cav_weight": 0.0},
        "_wo_lip": {"lip_weight": 0.0},
        "_wo_avsyncnet": {"supervisor": "avhubert"},
    }
    assert {name for name in PRESETS if "synctalklip" in name} == {
        f"{head}synctalklip{row}" for head in ("", "compact_") for row in of_row
    }
    for head in ("", "compact_"):
        base = preset(f"{head}synctalklip")
        assert base.cav_weight > 0 < base.lip_weight and base.contrastive_weight == 0 and base.supervisor == "avsyncnet"
        for row, changes in of_row.items():
            found = preset(f"{head}synctalklip{row}")
            apart = {f.name for f in fields(HParams) if getattr(found, f.name) != getattr(base, f.name)}
            assert apart == changes.keys()
            assert all(bool(getattr(found, name)) == bool(value) for name, value in changes.items())
            assert all(getattr(found, name) == value for name, value in changes.items() if isinstance(value, str))
    assert METHODS["synctalklip"] == "compact_synctalklip"


def test_compact_rows_are_trained_for_the_steps_and_sizes_of_talklips():
    talklip, ours = (asdict(preset(f"compact_{name}")) for name in ("talklip_g_c", "synctalklip_wo_novel"))
    assert {name for name in ours if ours[name] != talklip[name]} == {"supervisor"}
    assert EXPERT.align_weight == 0
