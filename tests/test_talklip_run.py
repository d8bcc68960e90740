"""A run goes through all its stages under an expert, resumes as the same run in each, and goes back when it must."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import update
from progress import Progress
from run import Run
from schedule import loss_weights, set_stage, stage_plan
from small_experts import EXPERT, GUIDED, expert, reader, write_expert

import checkpoint
import train
from data import Clips, GuidedClips
from errors import InputError
from hparams import PRESETS, HParams, preset

torch.set_num_threads(1)
CPU = torch.device("cpu")
CLOCK = {"faces_a_second", "waiting"}


def flat(state, prefix=""):
    """Every tensor, number and word in nested dicts and lists, by its path; tensors as bytes."""
    if isinstance(state, (dict, list)):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, each in pairs for k, v in flat(each, f"{prefix}/{name}").items()}
    return {prefix: state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}


def go(root, folder, stop, hp=GUIDED, path=None):
    """A run of `stop` steps, or one that goes on from the checkpoint at `path`."""
    folder.mkdir(exist_ok=True)
    run = Run(hp, CPU, expert(root))
    if path:
        run.resume(path, checkpoint.load(path))
    clips, late = Clips(root, "train", hp), hp.paced(hp.lip_from)
    later, valid = (GuidedClips(root, split, late, run.expert.tokenizer, "aligned", 100) for split in ("train", "val"))
    train.train(run, clips, valid, folder, workers=0, stop=stop, later=later)
    return run


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


PLATEAU = replace(GUIDED, patience=1, valid_every=1, max_steps=9, lr=0.0)  # nothing moves: no validation is better


@pytest.mark.parametrize(
    "hp, stops",
    [
        (replace(GUIDED, lip_batch_size=1, lip_window=4, freeze_norms=True), (1, 3, 4, 6)),
        (PLATEAU, (2, 4, 6)),
    ],
    ids=["by step", "by plateau"],
)
def test_a_run_stopped_in_any_stage_and_resumed_is_the_same_run(spoken_root, tmp_path, hp, stops):
    hp = replace(hp, audio_dropout=0.2, audio_layerdrop=0.3, augment=0.6)
    whole = go(spoken_root, tmp_path / "whole", hp.max_steps, hp)
    wanted = flat(checkpoint.load(tmp_path / "whole" / "last.pt"))
    lines = metrics(tmp_path / "whole")
    assert whole.now.lip_from < hp.max_steps
    for stop in stops:
        folder = tmp_path / f"stopped at {stop}"
        go(spoken_root, folder, stop, hp)
        go(spoken_root, folder, hp.max_steps, hp, folder / "last.pt")
        found = flat(checkpoint.load(folder / "last.pt"))
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == []
        assert metrics(folder) == lines


def test_each_loss_joins_with_its_stage(spoken_root, tmp_path):
    run = go(spoken_root, tmp_path, GUIDED.max_steps)
    steps = [line for line in metrics(tmp_path) if "valid" not in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    for name, first in (("l1", 0), ("adv", 1), ("lip", 4), ("contrastive", 4)):
        assert ["contrastive" in line if name == "contrastive" else name in line for line in steps] == [
            number >= first for number in range(8)
        ]
    assert checkpoint.load(tmp_path / "last.pt")["expert"] == "made up"
    (first, last) = [line["valid"] for line in metrics(tmp_path) if "valid" in line]
    assert first.keys() == last.keys() == {"l1", "mouth", "lip", "token_error"}
    assert 0 <= last["token_error"] <= 1 and last["lip"] > 0.5
    assert checkpoint.load_generator(tmp_path / "last.pt")[0].sync.out_features == 32
    assert run.expert.net.training is False


def test_plateaus_begin_the_stages_and_say_so(spoken_root, tmp_path, capsys):
    run = go(spoken_root, tmp_path, PLATEAU.max_steps, PLATEAU)
    # the first validation is the best; two more are no better, the same again in each stage
    assert run.progress.starts == {"audio_from": 3, "lip_from": 6}
    said = capsys.readouterr().err
    assert "step 3: a plateau, the stage of audio begins" in said and "the stage of lip begins" in said
    steps = [line for line in metrics(tmp_path) if "valid" not in line]
    assert ["lip" in line for line in steps] == [False] * 6 + [True] * 3
    assert any("more than 1 validations" in line for line in stage_plan(run.now))


def test_the_last_stage_has_batches_of_its_own_and_frozen_norms(spoken_root, tmp_path, monkeypatch):
    hp, seen = replace(GUIDED, lip_batch_size=1, lip_window=5, freeze_norms=True), []
    train_step = train.train_step

    def spied(nets, optims, batches, *rest):
        moved = nets["generator"].encoder[0][0].norm.running_mean.clone()
        losses = train_step(nets, optims, batches, *rest)
        moved = not torch.equal(moved, nets["generator"].encoder[0][0].norm.running_mean)
        seen.append((*batches[0]["face"].shape[:2], len(batches[0]["audio"]), moved))
        return losses

    monkeypatch.setattr(train, "train_step", spied)
    go(spoken_root, tmp_path, 6, hp)
    assert [each[1:] for each in seen] == [(3, 2, True)] * 4 + [(5, 1, False)] * 2


@pytest.mark.parametrize("px", [128, 256])
def test_larger_faces_are_trained_under_the_same_expert(spoken_root, tmp_path, px):
    hp = replace(GUIDED, face_size=px, lip_from=0, adv_from=0, max_steps=1)
    before = Run(hp, CPU).nets["generator"].to_rgb[1][0].weight.clone()
    run = go(spoken_root, tmp_path, 1, hp)
    (line, valid) = metrics(tmp_path)
    assert (
        {"lip", "contrastive", "adv"} <= line.keys()
        and math.isfinite(line["total"])
        and "token_error" in valid["valid"]
    )
    assert not torch.equal(run.nets["generator"].to_rgb[1][0].weight, before)


def test_a_run_that_diverges_goes_back_with_half_the_step_size(spoken_root, tmp_path, monkeypatch, capsys):
    hp, broken = replace(GUIDED, save_every=2, rollbacks=2), {"at": 5, "left": 2}
    pixel_loss = update.pixel_loss

    def that_breaks(fake, real):
        broken["at"] -= 1
        if broken["at"] < 0 and broken["left"]:
            broken["left"] -= 1
            return pixel_loss(fake, real) * math.nan
        return pixel_loss(fake, real)

    monkeypatch.setattr(update, "pixel_loss", that_breaks)
    run = go(spoken_root, tmp_path, 8, hp)
    said = capsys.readouterr().err
    assert "step 6: l1 is not finite. Back to step 4, the step size times 0.5" in said
    assert "step 5: l1 is not finite. Back to step 4, the step size times 0.25" in said
    assert run.step == 8 and run.progress.brake == 0.25 and run.progress.rollbacks == 2
    assert run.optims["generator"].param_groups[0]["lr"] == 0.25 * hp.lr
    assert [line["step"] for line in metrics(tmp_path) if "valid" not in line] == list(range(1, 9))
    state = checkpoint.load(tmp_path / "last.pt")
    assert all(value.isfinite().all() for value in state["generator"].values())
    broken.update(at=0, left=9)
    with pytest.raises(InputError, match="step 1: l1 is not finite.*Lower --lr"):
        go(spoken_root, tmp_path / "again", 8, hp)
    broken.update(at=5, left=9)
    found = f"after 2 times back to an earlier step. Lower --lr; the same command goes on from {tmp_path / 'more'}"
    with pytest.raises(InputError, match=re.escape(found)):
        go(spoken_root, tmp_path / "more", 8, hp)


@pytest.mark.parametrize("lip_sum", [False, True])
def test_gathered_gradients_are_those_of_the_joined_batch(spoken_root, lip_sum):
    """Of unlike batches, one clip with one window and one with two; batch norms keep their statistics."""
    still = {
        "audio_from": 0,
        "audio_train_layers": 0,
        "audio_dropout": 0.0,
        "audio_layerdrop": 0.0,
        "freeze_norms": True,
    }
    hp = replace(GUIDED, **still, lip_from=0, lip_sum=lip_sum, contrastive_weight=0.0)
    tokenizer, found = reader(spoken_root).tokenizer, []
    clips = [GuidedClips(spoken_root, "train", replace(hp, windows=n), tokenizer, "aligned", 100)[n] for n in (1, 2)]
    for batches in ([clips], [clips[:1], clips[1:]]):
        batches = [train.collate_windows(samples, hp.window) for samples in batches]
        run = Run(hp, CPU, expert(spoken_root))
        for net in (*run.nets.values(), run.expert.net):
            net.double()
        set_stage(run.nets["generator"], hp, 9)
        optims = {n: torch.optim.SGD(o.param_groups[0]["params"], lr=0.0) for n, o in run.optims.items()}
        batches = [{n: p.double() if p.is_floating_point() else p for n, p in batch.items()} for batch in batches]
        losses = train.train_step(run.nets, optims, batches, loss_weights(hp, 9), hp, run.expert)
        gradients = {n: w.grad for net in run.nets.values() for n, w in net.named_parameters() if w.grad is not None}
        found.append((losses, gradients))
    close = {"rtol": 1e-5, "atol": 1e-9, "check_dtype": False}
    for ours, joined in zip(*found[::-1], strict=True):
        assert ours.keys() == joined.keys()
        for name, wanted in joined.items():
            torch.testing.assert_close(ours[name], wanted, msg=name, **close)


# The command


FLAGS = [f"--{name}={value}" for name, value in asdict(GUIDED).items() if value != getattr(HParams(), name)]
FLAGS = [flag.split("=")[0].replace("--", "--no-") if flag.endswith("=False") else flag for flag in FLAGS]


def command(root, runs, *more):
    argv = ["--data_root", root, "--name", "tiny", "--runs", runs, "--workers=0", "--device=cpu", *more]
    return train.main([str(word) for word in argv])


def test_the_command_trains_under_an_expert_and_begins_with_its_encoder(spoken_root, tmp_path, capsys):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    assert command(spoken_root, tmp_path, *FLAGS, "--stop=1", "--expert", path) == 0
    printed = capsys.readouterr().err
    assert "from step 4: lip-reading loss x 0.1 (mean over tokens), contrastive loss x 0.05" in printed
    generator, _, _ = checkpoint.load_generator(tmp_path / "tiny" / "last.pt")
    ours, theirs = generator.speech.state_dict(), reader(spoken_root).net.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items()), "frozen until step 2"
    assert command(spoken_root, tmp_path, "--expert", path) == 0
    assert checkpoint.load(tmp_path / "tiny" / "last.pt")["step"] == 8
    other = write_expert(tmp_path / "other.pt", spoken_root)
    state = checkpoint.load(other)
    state["reader"]["decoder.norm.bias"] += 1
    checkpoint.save(other, **{name: value for name, value in state.items() if name != "format"})
    assert command(spoken_root, tmp_path, "--expert", other) == 1
    assert "was trained under another lip reader: give its --expert" in capsys.readouterr().err.splitlines()[-1]


def test_what_is_chosen_anew_counts_in_a_resumed_run(spoken_root, tmp_path):
    run = go(spoken_root, tmp_path, 2, replace(GUIDED, rollbacks=3))
    run.progress.brake, run.progress.rollbacks = 0.125, 3
    run.save(tmp_path / "last.pt")
    for changes, brake in (({}, 0.125), ({"lr": GUIDED.lr / 2, "beta1": 0.7}, 1.0)):
        again = Run(replace(GUIDED, **changes), CPU, expert(spoken_root))
        again.resume(tmp_path / "last.pt", checkpoint.load(tmp_path / "last.pt"))
        assert (again.progress.brake, again.progress.rollbacks) == (brake, 0 if changes else 3)
        betas = {group["betas"][0] for optim in again.optims.values() for group in optim.param_groups}
        assert betas == {changes.get("beta1", GUIDED.beta1)}
    with pytest.raises(InputError, match="began without --patience: that cannot change"):
        Run(replace(GUIDED, patience=2), CPU).resume(tmp_path / "last.pt", checkpoint.load(tmp_path / "last.pt"))


def test_the_best_is_one_that_the_expert_has_taught(spoken_root, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr("diary.validate", lambda *_: {"l1": 0.1, "mouth": next(scores)})
    go(spoken_root, tmp_path, 6, replace(GUIDED, max_steps=6, valid_every=2, lip_from=2))
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 6, "not 2, though it was nearer"


def test_without_an_expert_the_best_is_the_best(spoken_root, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr("diary.validate", lambda *_: {"l1": 0.1, "mouth": next(scores)})
    hp = replace(GUIDED, max_steps=6, valid_every=2, lip_from=2, lip_weight=0.0, contrastive_weight=0.0)
    clips, valid = (Clips(spoken_root, split, hp) for split in ("train", "val"))
    train.train(Run(hp, CPU), clips, valid, tmp_path, workers=0)
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 2


def test_stages_for_which_no_plateau_came_are_named_at_the_end(spoken_root, tmp_path, capsys):
    go(spoken_root, tmp_path, 2, replace(PLATEAU, max_steps=2))
    assert "no plateau came in 2 steps, so stages never began: audio, lip. Raise" in capsys.readouterr().err


def test_clips_that_the_expert_cannot_use_are_named_before_the_first_step(spoken_root, tmp_path, capsys):
    path, runs = write_expert(tmp_path / "expert.pt", spoken_root), tmp_path / "runs"
    for flags, words in (
        (["--lip_window=21"], "too short for windows of 21"),
        (["--window=21", "--lip_window=2"], "too short for windows of 21"),
        (["--roi=lrs2"], "--roi aligned"),
    ):
        assert command(spoken_root, runs, *FLAGS, "--expert", path, *flags) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (runs / "tiny" / "metrics.jsonl").exists()


def test_a_plan_with_patience_says_what_waits_for_a_plateau():
    plan = stage_plan(Progress.of(PLATEAU).knobs(PLATEAU))
    assert [line.split(":")[0] for line in plan[:4]] == ["from step 0", "from step 1"] + ["then, at a plateau"] * 2
    assert plan[4:] == ["a plateau is more than 1 validations without a better L1, 2 steps at least"]
    assert "audio encoder" in plan[-3] and "lip-reading loss" in plan[-2]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--audio_dim=64"], "features of 32, sound is compared in 64: say --sync_dim 32"),
        (["--speech=local", "--width=0.125"], "features of 32, sound is compared in 64: say --sync_dim 32"),
        (["--audio_ffn=128"], "of another size, and the audio encoder is to begin as its encoder"),
        (["--expert=nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["--roi=lrs2", "--lip_from=0"], "360x288 px.*--roi aligned"),
    ],
)
def test_faults_of_the_user_are_one_line(spoken_root, tmp_path, capsys, flags, words):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    assert command(spoken_root, tmp_path, *FLAGS, "--expert", path, *flags) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert pytest.importorskip("re").search(words, last), last


def test_a_run_that_never_reaches_its_expert_needs_none(spoken_root, tmp_path):
    assert command(spoken_root, tmp_path, *FLAGS, "--max_steps=4", "--audio_from=0", "--audio_train_layers=0") == 0


# The rows of the table


def test_the_six_rows_differ_in_what_the_paper_says_and_in_nothing_else():
    names = ["talklip_l", "talklip_l_c", "talklip_g", "talklip_g_c", "base_wo_lip", "base_wo_lip_gan"]
    for head, free in (("", {"l1_weight", "sync_dim", "audio_from", "audio_train_layers"}), ("compact_", set())):
        rows = {name: preset(head + name) for name in names}
        told = {
            name: (hp.speech, hp.lip_weight > 0, hp.contrastive_weight > 0, hp.adv_weight > 0)
            for name, hp in rows.items()
        }
        assert told == {
            "talklip_l": ("local", True, False, True),
            "talklip_l_c": ("local", True, True, True),
            "talklip_g": ("global", True, False, True),
            "talklip_g_c": ("global", True, True, True),
            "base_wo_lip": ("local", False, False, True),
            "base_wo_lip_gan": ("local", False, False, False),
        }
        differ = free | {"speech", "lip_weight", "contrastive_weight", "adv_weight"}
        kept = [{k: v for k, v in asdict(hp).items() if k not in differ} for hp in rows.values()]
        assert all(each == kept[0] for each in kept)
    full = preset("talklip_g_c")
    assert (full.lip_weight, full.adv_weight, full.contrastive_weight) == (1e-5, 0.07, 1e-3) and full.lip_sum
    for name in names:
        hp = preset(name)
        assert hp.l1_weight + hp.adv_weight + hp.lip_weight == pytest.approx(1)
    assert len(PRESETS) == 15


def test_the_compact_experts_encoder_fits_the_compact_generators():
    weights = Path(__file__).parents[1] / "weights" / "expert_compact.safetensors"
    found = train.load_reader(weights)
    for name in ("compact_talklip_g", "compact_talklip_g_c"):
        hp = preset(name)
        run = Run(replace(hp, width=1 / 16), CPU)
        run.transfer(weights, found)
        assert torch.equal(run.mean.speech.fusion.weight, found.net.encoder.fusion.weight)
    assert EXPERT.dim == 32
