"""A run goes through all its stages under an expert, resumes as the same run in each, and goes back when it must."""

import math
import re
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from small_experts import EXPERT, GUIDED, expert, reader, write_expert
from small_runs import CPU, command, flags_of, flat, gradients, metrics, stilled
from small_runs import go as go_with

import checkpoint
import train
from data import Clips, GuidedClips, collate
from errors import InputError
from experts.lip_reader import load_reader
from hparams import WEIGHTS, preset, stage_plan
from training import Plateaus

torch.set_num_threads(1)


def go(root, folder, stop, hp=GUIDED, path=None):
    """A run under the expert of the data root's tokenizer, see `small_runs.go`."""
    return go_with(root, folder, stop, hp, expert(root), path)


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
    assert whole.hp.lip_from < hp.max_steps
    folder, last = tmp_path / "parts", tmp_path / "parts" / "last.pt"
    go(spoken_root, folder, stops[0], hp)
    for stop, end in pairwise((*stops, hp.max_steps)):
        assert checkpoint.load(last)["step"] == stop
        go(spoken_root, folder, end, hp, last)
    found = flat(checkpoint.load(last))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert metrics(folder) == lines


def test_each_loss_joins_with_its_stage(spoken_root, tmp_path):
    go(spoken_root, tmp_path, GUIDED.max_steps)
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


def test_plateaus_begin_the_stages_and_say_so(spoken_root, tmp_path, capsys):
    state = go(spoken_root, tmp_path, PLATEAU.max_steps, PLATEAU)
    # the first validation is the best; two more are no better, the same again in each stage
    assert state.plateaus.starts == {"audio_from": 3, "lip_from": 6}
    said = capsys.readouterr().err
    assert "step 3: a plateau, the stage of audio begins" in said and "the stage of lip begins" in said
    steps = [line for line in metrics(tmp_path) if "valid" not in line]
    assert ["lip" in line for line in steps] == [False] * 6 + [True] * 3
    assert any("more than 1 validations" in line for line in stage_plan(state.hp))


def test_the_last_stage_has_batches_of_its_own_and_frozen_norms(spoken_root, tmp_path, monkeypatch):
    hp, seen = replace(GUIDED, lip_batch_size=1, lip_window=5, freeze_norms=True), []
    train_step = train.train_step

    def spied(state, batches, expert, sync_expert=None):
        norm = state.nets["generator"].encoder[0][0].norm
        mean = norm.running_mean.clone()
        losses = train_step(state, batches, expert)
        moved = not torch.equal(mean, norm.running_mean)
        seen.append((*batches[0]["face"].shape[:2], len(batches[0]["audio"]), moved))
        return losses

    monkeypatch.setattr(train, "train_step", spied)
    go(spoken_root, tmp_path, 6, hp)
    assert [each[1:] for each in seen] == [(3, 2, True)] * 4 + [(5, 1, False)] * 2


@pytest.mark.parametrize("px", [128, 256])
def test_larger_faces_are_trained_under_the_same_expert(spoken_root, tmp_path, px):
    hp = replace(GUIDED, face_size=px, lip_from=0, adv_from=0, max_steps=1)
    before = train.build(hp, CPU).nets["generator"].to_rgb[1][0].weight.clone()
    state = go(spoken_root, tmp_path, 1, hp)
    (line, valid) = metrics(tmp_path)
    assert (
        {"lip", "contrastive", "adv"} <= line.keys()
        and math.isfinite(line["total"])
        and "token_error" in valid["valid"]
    )
    assert not torch.equal(state.nets["generator"].to_rgb[1][0].weight, before)


def test_a_run_that_diverges_goes_back_with_half_the_step_size(spoken_root, tmp_path, monkeypatch, capsys):
    hp, broken = replace(GUIDED, save_every=2, rollbacks=2), {"at": 5, "left": 2}
    generator_losses = train.generator_losses

    def that_break(*args):
        broken["at"] -= 1
        fake, losses = generator_losses(*args)
        if broken["at"] < 0 and broken["left"]:
            broken["left"] -= 1
            losses["l1"] = losses["l1"] * math.nan
        return fake, losses

    monkeypatch.setattr(train, "generator_losses", that_break)
    state = go(spoken_root, tmp_path, 8, hp)
    said = capsys.readouterr().err
    assert "step 6: l1 is not finite. Back to step 4, the step size times 0.5" in said
    assert "step 5: l1 is not finite. Back to step 4, the step size times 0.25" in said
    assert (state.step, state.guard.brake, state.guard.rollbacks) == (8, 0.25, 2)
    assert state.optims["generator"].param_groups[0]["lr"] == 0.25 * hp.lr
    assert [line["step"] for line in metrics(tmp_path) if "valid" not in line] == list(range(1, 9))
    kept = checkpoint.load(tmp_path / "last.pt")["generator"]
    assert all(value.isfinite().all() for value in kept.values())
    broken.update(at=0, left=9)
    with pytest.raises(InputError, match="step 1: l1 is not finite.*Lower --lr"):
        go(spoken_root, tmp_path / "again", 8, hp)
    broken.update(at=5, left=9)
    found = f"after 2 times back to an earlier step. Lower --lr; the same command resumes from {tmp_path / 'more'}"
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
    hp = replace(GUIDED, **still, lr=0.0, ema=0.0, lip_from=0, lip_sum=lip_sum, contrastive_weight=0.0)
    tokenizer, found = reader(spoken_root).tokenizer, []
    clips = [GuidedClips(spoken_root, "train", replace(hp, windows=n), tokenizer, "aligned", 100)[n] for n in (1, 2)]
    for batches in ([clips], [clips[:1], clips[1:]]):
        batches = [collate(samples, hp.window) for samples in batches]
        state, teacher = stilled(train.build(hp, CPU), 9), expert(spoken_root)
        for net in (*state.nets.values(), teacher.net):
            net.double()
        batches = [{n: p.double() if p.is_floating_point() else p for n, p in batch.items()} for batch in batches]
        found.append((train.train_step(state, batches, teacher), gradients(state.nets)))
    close = {"rtol": 1e-5, "atol": 1e-9, "check_dtype": False}
    for ours, joined in zip(*found[::-1], strict=True):
        assert ours.keys() == joined.keys()
        for name, wanted in joined.items():
            torch.testing.assert_close(ours[name], wanted, msg=str(name), **close)


# The command


FLAGS = flags_of(GUIDED)


def test_the_command_trains_under_an_expert_and_begins_with_its_encoder(spoken_root, tmp_path, capsys):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    assert command(spoken_root, tmp_path, *FLAGS, "--stop=1", "--expert", path) == 0
    printed = capsys.readouterr().err
    assert "from step 4: lip loss x 0.1 (mean over tokens), contrastive loss x 0.05" in printed
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
    assert "not the expert that" in capsys.readouterr().err.splitlines()[-1]


def test_what_is_chosen_anew_counts_in_a_resumed_run(spoken_root, tmp_path):
    state, last = go(spoken_root, tmp_path, 2, replace(GUIDED, rollbacks=3)), tmp_path / "last.pt"
    state.guard.brake, state.guard.rollbacks = 0.125, 3
    state.save(last)
    for changes, brake in (({}, 0.125), ({"lr": GUIDED.lr / 2, "beta1": 0.7}, 1.0)):
        again = train.build(replace(GUIDED, **changes), CPU)
        again.resume(last, checkpoint.load(last))
        assert (again.guard.brake, again.guard.rollbacks) == (brake, 0 if changes else 3)
        again.begin_step()
        betas = {group["betas"][0] for optim in again.optims.values() for group in optim.param_groups}
        assert betas == {changes.get("beta1", GUIDED.beta1)}
    with pytest.raises(InputError, match="began without --patience: that cannot change"):
        train.build(replace(GUIDED, patience=2), CPU).resume(last, checkpoint.load(last))


def with_scores(monkeypatch, *mouths):
    """Validations that find these errors at the mouth, one after the other."""
    scores = iter(mouths)
    monkeypatch.setattr(train, "pixel_scores", lambda *_: {"l1": 0.1, "mouth": next(scores)})


def test_the_best_is_one_that_the_expert_has_taught(spoken_root, tmp_path, monkeypatch):
    with_scores(monkeypatch, 0.1, 0.3, 0.2)
    go(spoken_root, tmp_path, 6, replace(GUIDED, max_steps=6, valid_every=2, lip_from=2))
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 6, "not 2, though it was nearer"


def test_without_an_expert_the_best_is_the_best(spoken_root, tmp_path, monkeypatch):
    with_scores(monkeypatch, 0.1, 0.3, 0.2)
    hp = replace(GUIDED, max_steps=6, valid_every=2, lip_from=2, lip_weight=0.0, contrastive_weight=0.0)
    go_with(spoken_root, tmp_path, 6, hp)
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 2


def test_the_published_plateau_is_of_a_sum_over_clips(spoken_root, monkeypatch):
    hp = replace(GUIDED, lip_weight=0.0, contrastive_weight=0.0)
    for faithful, wanted in ((False, 0.1), (True, 0.2)):
        with_scores(monkeypatch, 0.3)
        state = train.build(replace(hp, faithful=faithful), CPU)
        found = train.validate(Clips(spoken_root, "val", hp), None, state, None)
        assert (found.scores, found.score, found.plateau) == ({"l1": 0.1, "mouth": 0.3}, 0.3, wanted)


def test_stages_for_which_no_plateau_came_are_named_at_the_end(spoken_root, tmp_path, capsys):
    go(spoken_root, tmp_path, 2, replace(PLATEAU, max_steps=2))
    assert "no plateau came in 2 steps, so stages never began: audio, lip. Raise" in capsys.readouterr().err


def test_clips_too_short_for_any_step_are_named_before_the_first(spoken_root, tmp_path, capsys):
    path, runs = write_expert(tmp_path / "expert.pt", spoken_root), tmp_path / "runs"
    for flags, words in (
        (["--window=21", "--lip_window=2"], "3 of 4 clips cannot be used.*too short for windows of 21"),
        (["--lip_window=40"], "none of its clips can be used: .*too short for windows of 40"),
    ):
        assert command(spoken_root, runs, *FLAGS, "--expert", path, *flags) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert re.search(words, last), last
    assert not runs.exists()


def test_a_plan_with_patience_says_what_waits_for_a_plateau():
    plan = stage_plan(Plateaus.of(PLATEAU).applied(PLATEAU))
    assert [line.split(":")[0] for line in plan[:4]] == ["from step 0", "from step 1"] + ["then, at a plateau"] * 2
    assert plan[4:] == ["a plateau is more than 1 validations without a better L1, 2 steps at least"]
    assert "audio encoder" in plan[-3] and "lip loss" in plan[-2]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--audio_dim=64"], "features of 32, sound is projected to 64: say --sync_dim 32"),
        (["--speech=local", "--width=0.125"], "features of 32, sound is projected to 64: say --sync_dim 32"),
        (["--audio_ffn=128"], "of another size, and the audio encoder is to begin as its encoder"),
        (["--expert=nowhere.pt"], "no checkpoint at nowhere.pt"),
    ],
)
def test_faults_of_the_user_are_one_line(spoken_root, tmp_path, capsys, flags, words):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    assert command(spoken_root, tmp_path, *FLAGS, "--expert", path, *flags) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(words, last), last
    assert not (tmp_path / "tiny").exists()


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


def test_the_compact_experts_encoder_fits_the_compact_generators():
    encoder = load_reader(WEIGHTS["expert"]).net.encoder.state_dict()
    encoder = {name: value for name, value in encoder.items() if not name.startswith("video.")}
    for name in ("compact_talklip_g", "compact_talklip_g_c"):
        state = train.build(replace(preset(name), width=1 / 16), CPU)
        checkpoint.begin_with([state.nets["generator"].speech, state.mean.speech], encoder, "another size")
        assert torch.equal(state.mean.speech.fusion.weight, encoder["fusion.weight"])
    assert EXPERT.dim == 32
