"""A lip reader's run follows its schedule, trains what it says, is scored as it should be, goes back, and learns."""

import json
import math
from argparse import Namespace
from dataclasses import asdict, replace

import pytest
import torch
from conftest import SPOKEN, write_spoken_root
from expert_runs import HP, batch_of, begin, go, step, validate
from small_runs import flat, metrics

import checkpoint
import train_expert
from errors import InputError
from experts.tokenizer import train_tokenizer
from hparams import ExpertHParams
from train_expert import objective_weights
from training import Validation, learning_rate

torch.set_num_threads(1)


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net, before):
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


# The schedule


def test_the_step_size_rises_stays_and_falls():
    hp = ExpertHParams(lr=2.0, max_steps=100, rise=0.1, hold=0.4, last_lr=0.05)
    corners = {0: 0.02, 5: 1.01, 10: 2.0, 11: 2.0, 30: 2.0, 50: 2.0, 75: 2 * 0.05**0.5, 100: 0.1, 120: 0.1}
    for number, wanted in corners.items():
        assert learning_rate(hp, number) == pytest.approx(wanted), number
    falling = [learning_rate(hp, number) for number in range(50, 101)]
    ratios = [b / a for a, b in zip(falling, falling[1:], strict=False)]
    assert ratios == pytest.approx([0.05 ** (1 / 50)] * 50), "it falls by the same share in every step"


def test_the_published_step_size_is_largest_after_a_third_of_the_run():
    hp = ExpertHParams()
    assert learning_rate(hp, 0) == pytest.approx(1e-5) and learning_rate(hp, 14_850) == pytest.approx(1e-3)
    assert learning_rate(hp, 45_000) == pytest.approx(5e-5)


@pytest.mark.parametrize(
    "rise, hold, found", [(0.0, 0.0, (1, 0.1**0.5)), (0.0, 1.0, (1, 1)), (1.0, 0.0, (0.01, 0.505))]
)
def test_a_schedule_may_leave_parts_out(rise, hold, found):
    hp = ExpertHParams(lr=1.0, max_steps=10, rise=rise, hold=hold, last_lr=0.1)
    assert (learning_rate(hp, 0), learning_rate(hp, 5)) == pytest.approx(found)


# One step


def test_a_frozen_encoder_gets_no_gradient_and_its_batch_norms_stay(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "finetune", freeze=2, layerdrop=0.0)
    encoder, decoder = run.objective.reader.encoder, run.objective.reader.decoder
    before, written = copied(encoder), copied(decoder)
    for _ in range(2):
        step(run, batch_of(run))
        assert not encoder.training and not encoder.video.training and decoder.training
        assert all(weight.grad is None for weight in encoder.parameters())
    assert run.state.step == 2
    assert not changed(encoder, before) and changed(decoder, written) >= {"embedding.weight", "blocks.0.up.weight"}
    step(run, batch_of(run))
    moved = changed(encoder, before)
    assert encoder.video.training and {"video.stem.0.weight", "video.stem.1.running_mean", "norm.weight"} <= moved
    sound = {name for name, _ in encoder.named_parameters() if name.startswith("audio.")}
    assert {name for name, _ in encoder.named_parameters()} - moved == sound, "fine-tuning is on video alone"


def test_a_step_is_adams_on_the_weighted_sum(spoken_root, tmp_path):
    still = {"dropout": 0.0, "layerdrop": 0.0, "frames_weight": 0.3}
    run, again = (begin(spoken_root, tmp_path, "finetune", clip_norm=norm, **still) for norm in (0.0, 1e-3))
    run.state.step = again.state.step = 3
    losses = step(run, batch_of(run))
    weights = objective_weights(run.state.hp)
    assert losses.keys() == {"reading", "frames", "grad_norm", "total"} and run.state.step == 4
    assert losses["total"].item() == pytest.approx((losses["reading"] + 0.3 * losses["frames"]).item())
    assert weights["reading"] == 1.0 and not any(loss.requires_grad for loss in losses.values())
    gradients = [weight.grad for weight in run.objective.parameters() if weight.grad is not None]
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
    assert losses["grad_norm"].item() == pytest.approx(norm, rel=1e-4)
    clipped = step(again, batch_of(again))
    assert clipped["grad_norm"].item() == pytest.approx(norm, rel=1e-4), "it is logged as it was"
    shorter = [weight.grad for weight in again.objective.parameters() if weight.grad is not None]
    assert math.sqrt(sum(each.square().sum().item() for each in shorter)) == pytest.approx(1e-3, rel=1e-2)
    (optim,) = run.state.optims.values()
    assert isinstance(optim, torch.optim.AdamW)
    for group in optim.param_groups:
        assert group["lr"] == learning_rate(run.state.hp, 3) and group["betas"] == (0.9, 0.98)
        assert group["weight_decay"] == run.state.hp.weight_decay


def test_pre_training_has_no_decoder(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "pretrain", modality_dropout=0.0)
    before = copied(run.objective)
    step(run, batch_of(run))
    assert run.objective.reader.decoder is None
    assert {"head.mask", "head.embeddings", "reader.encoder.audio.weight"} <= changed(run.objective, before)


# Validation


def test_sentences_are_scored_by_their_words_and_letters(spoken_root, tmp_path, monkeypatch):
    run, asked = begin(spoken_root, tmp_path, "finetune"), []

    def read(reader, roi, padding):
        asked.append((reader.net.training, padding.sum(1).tolist()))
        return ["set blue", "lay red"]  # they say "set blue" and "lay now"

    monkeypatch.setattr(train_expert, "read", read)
    assert validate(run) == {"wer": 1 / 4, "cer": 3 / 15} and asked == [(False, [4, 0])]
    found = train_expert.validate(run.objective, run.task, run.valid, run.reader, run.state)
    assert found.score == 1 / 4, "best.pt is that of the least word error rate"
    run.state.hp = replace(run.state.hp, valid_clips=1)
    monkeypatch.setattr(train_expert, "read", lambda *_: ["set blue"])
    assert validate(run) == {"wer": 0.0, "cer": 0.0}


def test_pre_training_is_scored_by_the_clusters_of_whole_clips_without_sound(spoken_root, tmp_path):
    run, met = begin(spoken_root, tmp_path, "pretrain"), []
    run.objective.reader.encode = lambda *inputs: met.append(inputs) or torch.zeros(2, 18, 32)
    run.objective.head.forward = lambda x: torch.eye(5)[1].expand(2, 18, 5)  # always cluster 1
    clusters = torch.cat([run.valid[i, None]["clusters"] for i in range(2)])
    assert len(clusters) == 32 and validate(run) == {"errors": pytest.approx((clusters != 1).float().mean().item())}
    ((roi, padding),) = met
    assert roi.shape == (2, 18, 1, 88, 88) and padding.sum().item() == 4


def test_words_are_scored_by_their_names(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "words")
    assert run.reader.words == ["bin", "blue", "lay", "now", "red", "set"]
    run.objective.reader.forward = lambda roi, padding, inside: torch.eye(6)[2].expand(len(roi), 6)  # always "lay"
    assert validate(run) == {"errors": 3 / 4}  # of "set blue" and "lay now"


# Runs


def test_the_log_is_json_lines_and_the_best_run_is_kept(spoken_root, tmp_path):
    run, scores = begin(spoken_root, tmp_path, "words"), iter([0.5, 0.2, 0.4])

    def scored(state, picture):
        score = next(scores)
        return Validation({"errors": score}, score)

    go(run, tmp_path, validate=scored)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps, valid = ([line for line in lines if ("valid" in line) == which] for which in (False, True))
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    logged = {"step", "word", "grad_norm", "total", "frames_a_second", "waiting"}
    assert all(line.keys() == logged and line["frames_a_second"] > 0 for line in steps)
    assert valid == [{"step": 2 * i, "valid": {"errors": score}} for i, score in ((1, 0.5), (2, 0.2), (3, 0.4))]
    best, last = (checkpoint.load(tmp_path / f"{name}.pt") for name in ("best", "last"))
    assert (best["step"], best["best"]) == (4, 0.2) and (last["step"], last["best"]) == (6, 0.2)


def broken(run, at, times=1):
    """The step of a run that loses its weights after step `at`, the first so many times that it comes there."""
    left = [times]

    def step(state, batch):
        if state.step == at and left[0]:
            left[0] -= 1
            with torch.no_grad():
                run.objective.reader.words.weight.fill_(math.inf)
        return train_expert.train_step(run.objective, run.task, state, batch)

    return step


def test_a_run_goes_back_and_resumes_after_a_loss_that_is_not_finite(spoken_root, tmp_path, capsys):
    begun = begin(spoken_root, tmp_path, "words")
    go(begun, tmp_path / "run", stop=2)
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    state["guard"] |= {"brake": 0.5, "rollbacks": 1}
    run, slower = (begin(spoken_root, tmp_path, "words") for _ in range(2))
    run.state.resume(tmp_path / "run" / "last.pt", checkpoint.load(tmp_path / "run" / "last.pt"))
    capsys.readouterr()
    go(run, tmp_path / "run", step=broken(run, 3))
    said = "step 4: word is not finite. Back to step 2, the step size times 0.5"
    assert said in capsys.readouterr().err.splitlines()
    assert [line["step"] for line in metrics(tmp_path / "run") if "valid" not in line] == [1, 2, 3, 4, 5, 6]
    slower.state.resume(tmp_path / "last.pt", state)
    go(slower, tmp_path / "slower")
    found, wanted = (flat(checkpoint.load(tmp_path / name / "last.pt")) for name in ("run", "slower"))
    assert found == wanted, "it is the run that had half the step size from step 2 on"
    assert run.state.guard.rollbacks == 1 and all(weight.isfinite().all() for weight in run.objective.parameters())


def test_a_run_that_is_never_finite_ends_and_keeps_what_was_sound(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "words", rollbacks=2)
    with pytest.raises(InputError, match="step 1: word is not finite, before anything was saved. Lower --lr"):
        go(run, tmp_path / "first", step=broken(run, 0))
    run = begin(spoken_root, tmp_path, "words", rollbacks=2)
    go(run, tmp_path, stop=1)
    ends = "step 2: word is not finite after 2 times back to an earlier step. Lower --lr; the same command resumes from"
    with pytest.raises(InputError, match=ends):
        go(run, tmp_path, step=broken(run, 1, times=9))
    last = checkpoint.load(tmp_path / "last.pt")
    assert last["step"] == 1 and last["guard"]["brake"] == 0.25
    assert all(weight.isfinite().all() for weight in last["reader"].values() if weight.is_floating_point())
    run = begin(spoken_root, tmp_path, "words", rollbacks=0)
    run.state.resume(tmp_path / "last.pt", last)
    run.state.guard.rollbacks = 0
    with pytest.raises(InputError, match="step 2: word is not finite. Lower --lr; the same command resumes from"):
        go(run, tmp_path, step=broken(run, 1))


def test_losses_that_only_fall_are_watched(spoken_root, tmp_path):
    watched = {"pretrain": {"clusters"}, "finetune": {"reading", "frames"}, "words": {"word"}}
    for task, names in watched.items():
        run = begin(spoken_root, tmp_path, task, frames_weight=0.3 if task == "finetune" else 0.0)
        step(run, batch_of(run))
        assert run.state.guard.means.keys() == names, task


@pytest.mark.parametrize("task, model", [("words", "avhubert"), ("pretrain", "words"), ("finetune", "words")])
def test_a_task_refuses_a_model_of_another_task(tmp_path, task, model):
    args = Namespace(task=task, init=None, model=model, freeze=0)
    with pytest.raises(InputError, match=f"{task} cannot train --model {model}: say another --model"):
        train_expert.knobs_of(args, tmp_path / "last.pt")


def test_a_run_is_resumed_only_as_the_same(spoken_root, tmp_path):
    run, path = begin(spoken_root, tmp_path, "finetune"), tmp_path / "run.pt"
    run.state.save(path)
    state = checkpoint.load(path)
    for task, knobs, words in (
        ("finetune", {"dim": 48}, "run.pt does not fit these flags: .*size mismatch"),
        ("finetune", {"frames_weight": 0.5}, "run.pt does not fit these flags: .*'said'"),
        ("pretrain", {}, "not the task that .*run.pt was begun with: give the same"),
    ):
        with pytest.raises(InputError, match=words) as fault:
            begin(spoken_root, tmp_path, task, **knobs).state.resume(path, state)
        assert "\n" not in str(fault.value)
    other = train_tokenizer(["one two three four five six"], 40, "word")
    assert len(other) == run.objective.reader.decoder.embedding.num_embeddings, "of the same size"
    run.state.facts["tokenizer"] = train_expert.packed(other)
    with pytest.raises(InputError, match="not the tokenizer that .*run.pt was begun with"):
        run.state.resume(path, state)


def test_a_run_is_resumed_only_on_the_same_clips(tmp_path):
    root = write_spoken_root(tmp_path, SPOKEN)
    begin(root, tmp_path, "finetune").state.save(tmp_path / "run.pt")
    (root / "train.txt").write_text("".join(f"{name}\n" for name in list(SPOKEN["train"])[:3]))
    with pytest.raises(InputError, match="not the clips that .*run.pt was begun with"):
        begin(root, tmp_path, "finetune").state.resume(tmp_path / "run.pt", checkpoint.load(tmp_path / "run.pt"))


def written_by_an_older_version(path):
    """Rewrites a run's checkpoint as versions before this one wrote it."""
    state = torch.load(path, weights_only=True)
    state["optimizer"] = state.pop("expert_optimizer")
    state["hparams"]["units"] = state["hparams"].pop("clusters")
    for name in ("plateaus", "guard", "clips"):
        del state[name]
    for name in ("beta1", "rollbacks"):
        del state["hparams"][name]
    torch.save(state, path)


@pytest.mark.parametrize("task", ["pretrain", "finetune", "words"])
def test_a_run_of_an_older_version_resumes_to_the_same_bits(spoken_root, tmp_path, task):
    whole = begin(spoken_root, tmp_path, task, max_steps=4)
    go(whole, tmp_path / "whole")
    begun = begin(spoken_root, tmp_path, task, max_steps=4)
    go(begun, tmp_path / "old", stop=2)
    last = tmp_path / "old" / "last.pt"
    written_by_an_older_version(last)
    state = checkpoint.load(last)
    assert checkpoint.knobs(last, state["hparams"], ExpertHParams) == begun.state.hp
    resumed = begin(spoken_root, tmp_path, task, max_steps=4)
    resumed.state.resume(last, state)
    go(resumed, tmp_path / "old")
    found, wanted = (flat(checkpoint.load(tmp_path / name / "last.pt")) for name in ("old", "whole"))
    assert {name for name in wanted if found.get(name) != wanted[name]} <= {
        name
        for name in wanted
        if name.startswith("/guard/")  # whose running means begin anew
    }
    assert found.keys() == wanted.keys()


def test_two_clips_are_learnt_by_heart(tmp_path):
    two = dict(list(SPOKEN["train"].items())[:2])
    root = write_spoken_root(tmp_path, {"train": two, "val": two})
    still = {"augment": False, "frames": 0, "dropout": 0.0, "layerdrop": 0.0, "label_smoothing": 0.0, "rise": 0.1}
    knobs = {"lr": 5e-3, "hold": 0.3, "clip_norm": 1.0, "shrink": 2, "grad_mult": 1.0}
    run = begin(root, tmp_path / "run", "finetune", **still, **knobs, max_steps=80, valid_every=80)
    first = validate(run)
    go(run, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["reading"] < 0.1 and lines[-1]["valid"] == {"wer": 0.0, "cer": 0.0} and first["wer"] > 0


def test_words_begin_with_the_video_front_end_of_a_pre_trained_reader(spoken_root, tmp_path):
    first = begin(spoken_root, tmp_path, "pretrain")
    first.state.save(tmp_path / "clusters.pt")
    run = begin(spoken_root, tmp_path, "words")
    train_expert.begin_with(run.objective, "words", tmp_path / "clusters.pt")
    theirs = first.objective.reader.encoder.video.state_dict()
    assert all(torch.equal(theirs[name], part) for name, part in run.objective.reader.front.state_dict().items())


def test_the_knobs_of_a_run_are_in_its_checkpoint_and_flags_win(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "words")
    run.state.save(tmp_path / "last.pt")
    hp, found = train_expert.knobs_of(Namespace(task="words", init=None, max_steps=9), tmp_path / "last.pt")
    assert asdict(hp) == asdict(HP) | {"model": "words", "max_steps": 9} and found["step"] == 0
