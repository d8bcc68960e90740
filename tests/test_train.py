"""A run follows its schedule, trains only what it says, learns, stops at nonsense, and resumes as the same run."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from conftest import retell
from drawn_faces import write_data_root
from small_runs import CPU, command, flags_of, flat, go, gradients, metrics, stilled

import checkpoint
import train
import training
from data import Clips, collate
from hparams import HParams, loss_weights, preset, stage_plan
from losses import adversarial_loss, mouth_loss, pixel_loss
from media.clip import Clip
from media.files import open_log
from train import balanced_backward, build, set_stage, train_step
from training import learning_rate

torch.set_num_threads(1)
NARROW = {"width": 1 / 16, "audio_layers": 2, "audio_dim": 32, "audio_ffn": 64, "audio_heads": 4}
HP = replace(
    HParams(**NARROW, batch_size=2, window=2, windows=1, augment=0.5, rare_speakers=0.3, lr=1e-3),
    mouth_weight=1.0,
    lips_weight=0.2,
    max_steps=5,
    log_every=1,
    save_every=100,
    valid_every=2,
    audio_from=3,
    audio_train_layers=1,
    adv_from=1,
    ema=0.9,
    warmup=2,
    clip_norm=1.0,
)
WHOLE = replace(HP, audio_train_layers=0)  # an encoder that nobody has trained is trained whole, or not by the command
FLAGS = flags_of(WHOLE)


def batch_of(data_root, hp, draws=(0, 1)):
    clips = Clips(data_root, "train", hp)
    return collate([clips[draw] for draw in draws], hp.window)


# Schedules


def test_losses_join_at_their_step():
    hp = HParams(l1_weight=0.5, mouth_weight=2.0, lips_weight=0.3, adv_weight=0.1, adv_from=10)
    hp = replace(hp, lip_weight=0.2, contrastive_weight=0.4, lip_from=11)
    always, off = {"l1": 0.5, "mouth": 2.0, "lips": 0.3}, {"adv": 0.0, "lip": 0.0, "contrastive": 0.0}
    assert loss_weights(hp, 9).items() >= (always | off).items()  # a fork has more
    assert loss_weights(hp, 10) == loss_weights(hp, 9) | {"adv": 0.1}
    assert loss_weights(hp, 11) == loss_weights(hp, 10) | {"lip": 0.2, "contrastive": 0.4}


def test_the_step_size_rises_stays_and_falls():
    hp = HParams(lr=2.0, warmup=4, max_steps=100, decay_from=0.5)
    assert [learning_rate(hp, step) for step in range(6)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert learning_rate(hp, 50) == 2.0 and learning_rate(hp, 75) == pytest.approx(1.0)
    assert learning_rate(hp, 60) == pytest.approx(1 + math.cos(math.pi / 5))
    assert 0 < learning_rate(hp, 99) < 0.01 and learning_rate(hp, 100) == 0
    assert {learning_rate(HParams(), step) for step in (0, 500, 99_999)} == {1e-4}, "published: it stays"


@pytest.mark.parametrize("layers, trained", [(1, {"blocks.1"}), (0, {"blocks.0", "blocks.1", "audio", "norm"})])
def test_a_stage_trains_what_it_says(layers, trained):
    hp = replace(HP, audio_from=5, audio_train_layers=layers, adv_weight=0.0)
    generator = build(hp, CPU).nets["generator"]
    for step, hears in ((0, False), (4, False), (5, True), (6, True), (0, False)):
        set_stage(generator, hp, step)
        free = {name for name, weight in generator.speech.named_parameters() if weight.requires_grad}
        parts = {".".join(name.split(".")[: 2 if "blocks" in name else 1]) for name in free}
        assert parts >= trained if hears else not parts
        assert not layers or parts <= trained
        assert generator.speech.training == hears and generator.speech.blocks[0].training == hears
        assert generator.training and all(weight.requires_grad for weight in generator.decoder.parameters())


def test_a_local_encoder_has_no_stages():
    hp = replace(HP, speech="local", audio_from=5)
    generator = build(hp, CPU).nets["generator"]
    set_stage(generator, hp, 0)
    assert all(weight.requires_grad for weight in generator.parameters())
    assert not any("audio encoder" in line for line in stage_plan(hp))


def test_the_plan_says_when_what_begins():
    assert stage_plan(preset("talklip_g")) == [
        "from step 0: l1 loss x 0.92999, adv loss x 0.07",
        "from step 36000: audio encoder trains (top 3 blocks)",
        "from step 60000: lip loss x 1e-05 (sum over tokens)",
    ]
    assert stage_plan(preset("talklip_g_c"))[-1].endswith("(sum over tokens), contrastive loss x 0.001")
    assert stage_plan(HP) == [
        "from step 0: l1 loss x 0.92999, mouth loss x 1, lips loss x 0.2",
        "from step 1: adv loss x 0.07",
        "from step 3: audio encoder trains (top 1 blocks)",
    ]
    assert len(stage_plan(replace(HP, max_steps=2))) == 2, "what this run never reaches is not announced"


def test_what_is_frozen_does_not_move(data_root):
    state = build(replace(HP, audio_from=1, adv_from=0), CPU)
    before = {name: value.clone() for name, value in state.nets["generator"].state_dict().items()}
    for step, moves in ((0, set()), (1, {"speech.blocks.1"})):
        train_step(state, [batch_of(data_root, HP)])
        assert state.step == step + 1
        after = state.nets["generator"].state_dict()
        moved = {".".join(n.split(".")[:3]) for n in before if "speech" in n and not torch.equal(before[n], after[n])}
        assert moved == moves
        assert not torch.equal(before["audio_map.weight"], after["audio_map.weight"])


# One step


def test_each_network_gets_the_gradient_of_its_own_losses_and_no_other(data_root):
    hp = replace(HP, audio_from=0, audio_train_layers=0, clip_norm=0.0, lips_weight=0.0, lr=0.0)
    state, batch, weights = build(hp, CPU), batch_of(data_root, HP), loss_weights(hp, 9)
    for _ in range(2):  # the second step would show what the first one left behind
        losses = train_step(stilled(state, 9), [batch])
    found = gradients(state.nets)
    for net in state.nets.values():
        net.zero_grad(set_to_none=True)
    torch.manual_seed(9)  # of seed 0, step 9
    generator, judge, real = state.nets["generator"], state.nets["discriminator"], batch["target"]
    fake = generator(batch["face"], batch["audio"], batch["index"], batch["audio_padding"])
    terms = {"l1": pixel_loss(fake, real), "mouth": mouth_loss(fake, real, batch["mouth"])}
    terms["adv"] = adversarial_loss(judge(fake), real=True)
    total = sum(weights[name] * loss for name, loss in terms.items())
    total.backward()
    expected = gradients({"generator": generator})
    judge.zero_grad(set_to_none=True)
    (adversarial_loss(judge(real), real=True) + adversarial_loss(judge(fake.detach()), real=False)).backward()
    expected |= gradients({"discriminator": judge})
    assert found.keys() == expected.keys() and {name for name, _ in found} == {"generator", "discriminator"}
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-7)
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-5)
    assert {"d_real", "d_fake", "grad_norm"} <= losses.keys() and not losses["total"].requires_grad


def test_the_adversarial_gradient_is_a_share_of_the_others_by_hand():
    place = torch.tensor([1.0, 1.0], requires_grad=True)
    fake = 1 * place
    others = 3 * fake[0] + 4 * fake[1] + 10 * place[0]  # at the pixels (3, 4), and 10 that go round them
    weight = balanced_backward(fake, others, 2 * fake[1], ratio=0.5)
    assert weight.item() == pytest.approx(0.5 * 5 / 2)
    assert place.grad.tolist() == pytest.approx([3 + 10, 4 + 1.25 * 2])


@pytest.mark.parametrize("kind", ["talklip", "patch"])
def test_a_step_by_ratio_is_that_of_the_weight_it_finds(data_root, kind):
    hp = replace(HP, audio_from=0, audio_train_layers=0, clip_norm=0.0, lr=0.0, adv_from=0, ema=0.0)
    hp, batch = replace(hp, adv_ratio=0.5, discriminator=kind), batch_of(data_root, HP)
    state = stilled(build(hp, CPU), 9)
    losses = train_step(state, [batch])
    found, weight = gradients(state.nets), losses["adv_weight"].item()
    plain = stilled(build(replace(hp, adv_ratio=0.0, adv_weight=weight), CPU), 9)
    wanted = train_step(plain, [batch])
    expected = gradients(plain.nets)
    assert 0 < weight < 100 and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)  # 0 before a norm, but for rounding
    assert losses["total"].item() == pytest.approx(wanted["total"].item(), rel=1e-5)
    assert "adv_weight" not in wanted and losses["d_gap"].item() == pytest.approx(wanted["d_gap"].item(), abs=1e-6)


def test_a_weight_of_0_costs_nothing_and_leaves_the_discriminator_alone(data_root):
    only = {f"{name}_weight": 0.0 for name in loss_weights(HP, 0)} | {"l1_weight": 1.0}
    state, batch = build(replace(HP, **only, adv_from=0, lip_from=0), CPU), batch_of(data_root, HP)
    before = flat(state.nets["discriminator"].state_dict())
    losses = train_step(state, [batch])
    assert losses.keys() == {"l1", "grad_norm", "total"}
    assert flat(state.nets["discriminator"].state_dict()) == before
    assert all(weight.grad is None for weight in state.nets["lips"].parameters())


def test_one_window_is_learnt_by_heart_in_40_steps(data_root):
    hp = replace(HP, width=1 / 4, lr=1e-2, warmup=0, max_steps=40, augment=0.0, adv_weight=0.0, ema=0.0)
    hp = replace(hp, audio_from=0, audio_train_layers=0)
    state, batch, first = build(hp, CPU), batch_of(data_root, hp, draws=(0,)), None
    for _ in range(40):
        losses = train_step(state, [batch])
        first = first or losses
    for name in ("l1", "mouth", "lips"):
        assert losses[name] < 0.4 * first[name], name


# Whole runs


def test_a_resumed_run_is_the_same_run(data_root, tmp_path):
    whole = go(data_root, tmp_path / "whole", 5, HP)
    whole.save(tmp_path / "whole.pt")
    wanted = flat(checkpoint.load(tmp_path / "whole.pt"))
    folder, last = tmp_path / "parts", tmp_path / "parts" / "last.pt"
    go(data_root, folder, 1, HP)
    for stop, end in pairwise((1, 2, 4, 5)):  # before, and after, a discriminator and an audio encoder train
        assert checkpoint.load(last)["step"] == stop
        resumed = go(data_root, folder, end, HP, path=last)
    resumed.save(folder / "resumed.pt")
    found = flat(checkpoint.load(folder / "resumed.pt"))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert metrics(folder) == metrics(tmp_path / "whole")


def test_a_resumed_run_by_ratio_and_patches_is_the_same_run(data_root, tmp_path):
    hp = replace(HP, adv_from=0, adv_ratio=0.3, discriminator="patch", max_steps=3)
    go(data_root, tmp_path / "whole", 3, hp)
    go(data_root, tmp_path / "parts", 2, hp)
    go(data_root, tmp_path / "parts", 3, hp, path=tmp_path / "parts" / "last.pt")
    whole, parts = (flat(checkpoint.load(tmp_path / name / "last.pt")) for name in ("whole", "parts"))
    assert whole == parts and metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_a_discriminator_that_sleeps_is_said_once(data_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "ENOUGH", 1)
    monkeypatch.setattr(training, "ASLEEP", 1e9)
    monkeypatch.setattr(training, "ALIKE", 1e9)
    go(data_root, tmp_path, 4, HP)
    assert capsys.readouterr().err.count("step 2: the discriminator is asleep") == 1
    assert metrics(tmp_path)[-1]["step"] == 4


def test_a_run_goes_through_its_stages(data_root, tmp_path):
    start = {name: value.clone() for name, value in build(HP, CPU).nets["generator"].speech.named_parameters()}
    for stop, trained in ((3, set()), (4, {"blocks.1"})):
        state = go(data_root, tmp_path / str(stop), stop, HP)
        now = dict(state.nets["generator"].speech.named_parameters())
        assert {name[: len("blocks.1")] for name in now if not torch.equal(now[name], start[name])} == trained
        assert {group["lr"] for optim in state.optims.values() for group in optim.param_groups} == {HP.lr}
    warming = go(data_root, tmp_path / "1", 1, HP)
    assert {group["lr"] for optim in warming.optims.values() for group in optim.param_groups} == {HP.lr / HP.warmup}


def test_the_log_is_json_lines_and_a_validation_writes_a_strip(data_root, tmp_path):
    state = go(data_root, tmp_path, 5, HP)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps, valid = ([line for line in lines if ("valid" in line) == which] for which in (False, True))
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5] and [line["step"] for line in valid] == [2, 4, 5]
    assert {"l1", "mouth", "lips", "grad_norm", "total", "frames_a_second", "waiting"} <= steps[0].keys()
    assert "adv" not in steps[0] and {"adv", "d_real", "d_fake"} <= steps[1].keys()
    assert valid[0]["valid"].keys() >= {"l1", "mouth"} and state.best == min(line["valid"]["mouth"] for line in valid)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [f"000000{k}.png" for k in (2, 4, 5)]
    strip = cv2.imread(str(tmp_path / "samples" / "0000005.png")) / 255.0
    assert strip.shape == (2 * 96, 8 * 96, 3)  # two clips; identity, pose prior, generated, real, twice
    real = Clips(data_root, "val", HP).validation(1)["target"][5].permute(1, 2, 0).numpy()
    assert abs(strip[96:, -96:, ::-1] - real).max() < 0.01 and not strip[48:96, 96 : 2 * 96].any()
    assert checkpoint.load(tmp_path / "best.pt")["best"] == state.best


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_itself(data_root, tmp_path, monkeypatch, capsys, log_every):
    broken = {"from": 1}

    def mouth_loss_that_breaks(fake, real, mask):
        broken["from"] -= 1
        return mouth_loss(fake, real, mask) * (1.0 if broken["from"] >= 0 else math.inf)

    monkeypatch.setattr(train, "mouth_loss", mouth_loss_that_breaks)
    argv = ["--data_root", str(data_root), "--name", "x", "--runs", str(tmp_path), "--workers=0", "--device=cpu"]
    often = [f"--log_every={log_every}", "--save_every=1", "--valid_every=100"]
    assert train.main([*argv, *FLAGS, *often]) == 1
    assert "step 2: mouth is not finite" in capsys.readouterr().err.splitlines()[-1]
    state = checkpoint.load(tmp_path / "x" / "last.pt")
    assert state["step"] == 1 and all(v.isfinite().all() for v in state["generator"].values())


# The command


def test_the_command_trains_exports_and_resumes(data_root, tmp_path, capsys):
    exported, folder = tmp_path / "new folder" / "tiny.safetensors", tmp_path / "tiny"
    assert command(data_root, tmp_path, *FLAGS, "--stop=2", "--export", exported) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "step 0 of 5" in printed.err and stage_plan(WHOLE)[0] in printed.err
    first, hp, about = checkpoint.load_generator(exported)
    assert hp == WHOLE and about["step"] == 2
    assert command(data_root, tmp_path, "--export", exported) == 0  # the knobs are in the checkpoint
    assert "step 2 of 5" in capsys.readouterr().err
    assert [line["step"] for line in metrics(folder) if "valid" not in line] == [1, 2, 3, 4, 5]
    last, hp, about = checkpoint.load_generator(exported)
    assert hp == WHOLE and about["step"] == 5
    mean = checkpoint.load(folder / "last.pt")["ema"]["audio_map.weight"]
    torch.testing.assert_close(last.audio_map.weight.data, mean.half().float())
    assert command(data_root, tmp_path) == 0 and len(metrics(folder)) == 5 + 3, "a finished run has nothing to do"


def test_a_discriminator_is_exported_for_those_who_go_on(data_root, tmp_path, capsys):
    exported = tmp_path / "new folder" / "judge.safetensors"
    assert command(data_root, tmp_path, *FLAGS, "--stop=2", "--export_discriminator", exported) == 0
    trained = checkpoint.load(tmp_path / "tiny" / "last.pt")["discriminator"]
    judge, hp, about = checkpoint.load_discriminator(exported)
    assert hp == WHOLE and about["step"] == 2
    assert all(torch.equal(value, trained[name].half().float()) for name, value in judge.state_dict().items())
    begun = ["--name=second", "--stop=1", "--adv_from=3", "--init_discriminator", exported]
    assert command(data_root, tmp_path, *FLAGS, *begun) == 0
    second = checkpoint.load(tmp_path / "second" / "last.pt")["discriminator"]
    assert all(torch.equal(value, second[name]) for name, value in judge.state_dict().items()), "it has not learnt yet"
    capsys.readouterr()
    assert command(data_root, tmp_path, "--name=third", *FLAGS, "--init", exported) == 1
    assert "holds no generator but a discriminator. Give" in capsys.readouterr().err.splitlines()[-1]


def test_faults_of_the_user_are_one_line(data_root, tmp_path, capsys):
    assert command(data_root, tmp_path, *FLAGS, "--stop=1") == 0
    assert command(data_root, tmp_path, "--audio_dim=48") == 1
    assert "tiny/last.pt does not fit these flags" in capsys.readouterr().err.splitlines()[-1]
    for flag in ("--workers=-1", "--stop=-1"):
        assert command(data_root, tmp_path, flag) == 1
        assert f"{flag.replace('=', ' ')} must be at least 0" in capsys.readouterr().err
    assert command(data_root, tmp_path, "--name=none", *FLAGS, "--stop=0") == 0
    assert not (tmp_path / "none" / "last.pt").exists()
    assert command(data_root, tmp_path, "--window=30", "--stop=2") == 1
    assert "too short for windows of 30" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 1])  # torch wraps an error of a worker in its traceback
def test_a_picture_that_cannot_be_read_is_one_line_too(tmp_path, capsys, workers):
    root = write_data_root(tmp_path, {"train": {"ann/one": 12}, "val": {"ann/two": 12}})
    path = root / "clips" / "ann" / "one.safetensors"
    retell(path, faces=np.zeros_like(Clip(path).array("faces")))
    assert command(root, tmp_path / "runs", *FLAGS, f"--workers={workers}") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{path} is broken (a picture of faces)" in last and "Traceback" not in last


def test_workers_that_inherit_nothing_read_clips_too(data_root, tmp_path, monkeypatch):
    """As on a Mac, where they are spawned: whatever they are given must be picklable."""
    monkeypatch.setattr(train, "DataLoader", partial(train.DataLoader, multiprocessing_context="spawn"))
    assert command(data_root, tmp_path, *FLAGS, "--stop=1", "--workers=1") == 0


def test_a_resumed_run_drops_what_was_logged_beyond_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    with open_log(path, 2) as log:
        log.write('{"step": 3}\n')
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_an_encoder_nobody_has_trained_is_not_frozen_for_ever(data_root, tmp_path, capsys):
    frozen = ["--audio_from=3", "--audio_train_layers=1"]
    assert command(data_root, tmp_path, *FLAGS, *frozen) == 1
    assert "--init" in capsys.readouterr().err.splitlines()[-1]
    begin = tmp_path / "begin.safetensors"
    checkpoint.export(begin, build(HP, CPU).nets["generator"], HP)
    assert command(data_root, tmp_path, *FLAGS, *frozen, "--stop=1", "--init", begin) == 0
    kept = checkpoint.load(tmp_path / "tiny" / "last.pt")["generator"]["speech.fusion.weight"]
    assert torch.equal(kept, checkpoint.load_generator(begin)[0].speech.fusion.weight)


def test_whoever_taught_a_generator_is_known_by_all_that_goes_on_from_it():
    facts = {"expert": "b", "sync_expert": None}
    assert checkpoint.teachers({"taught_by": []}, facts) == ["b"]
    assert checkpoint.teachers({"taught_by": ["a", "b"]}, facts) == ["a", "b"]
    assert checkpoint.teachers({}, facts) is None  # begun with a file that does not say
