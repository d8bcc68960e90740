"""A lip reader's run follows its schedule, trains what it says, is scored as it should be, and learns."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import SPOKEN, write_spoken_root

import checkpoint
import expert_run
from errors import InputError
from expert_run import ExpertRun, learning_rate, train, train_step, validate
from experts.data import collate
from experts.tokenizer import Tokenizer, train_tokenizer
from hparams import ExpertHParams
from objectives import loss_weights

torch.set_num_threads(1)
SIZES = {"layers": 2, "dim": 32, "ffn": 64, "heads": 2, "decoder_layers": 1, "decoder_ffn": 64, "decoder_heads": 2}
RECIPE = {"frames": 16, "augment": True, "max_frames": 50, "freeze": 0, "unmasked_weight": 0.5, "beam": 2, "lr": 3e-3}
EVERY = {"max_steps": 6, "log_every": 1, "save_every": 100, "valid_every": 2}
HP = ExpertHParams(width=1 / 16, units=5, **SIZES, **RECIPE, **EVERY)


def begin(root, folder, task, **knobs):
    """A tiny run of a task."""
    folder.mkdir(exist_ok=True)
    hp = replace(HP, **{"model": "words" if task == "words" else "avhubert"} | knobs)
    tokenizer = Tokenizer((root / "tokenizer.model").read_bytes()) if task == "finetune" else None
    return ExpertRun(task, hp, torch.device("cpu"), root, folder, tokenizer)


def batch_of(run, clips=(0, 1)):
    return collate([run.clips[i, None] for i in clips])


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net, before):
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


# The schedule


def test_the_step_size_rises_stays_and_falls():
    hp = ExpertHParams(lr=2.0, max_steps=100, rise=0.1, hold=0.4, last_lr=0.05)
    corners = {0: 0.02, 5: 1.01, 10: 2.0, 11: 2.0, 30: 2.0, 50: 2.0, 75: 2 * 0.05**0.5, 100: 0.1, 120: 0.1}
    for step, wanted in corners.items():
        assert learning_rate(hp, step) == pytest.approx(wanted), step
    falling = [learning_rate(hp, step) for step in range(50, 101)]
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
    encoder, decoder = run.net.reader.encoder, run.net.reader.decoder
    before, written = copied(encoder), copied(decoder)
    for _ in range(2):
        train_step(run, batch_of(run))
        run.step += 1
        assert not encoder.training and not encoder.video.training and decoder.training
        assert all(weight.grad is None for weight in encoder.parameters())
    assert not changed(encoder, before) and changed(decoder, written) >= {"embedding.weight", "blocks.0.up.weight"}
    train_step(run, batch_of(run))
    moved = changed(encoder, before)
    assert encoder.video.training and {"video.stem.0.weight", "video.stem.1.running_mean", "norm.weight"} <= moved
    unheard = {name for name, _ in encoder.named_parameters() if name.startswith("audio.")}
    assert {name for name, _ in encoder.named_parameters()} - moved == unheard, "nobody listens in fine-tuning"


def test_a_step_is_adams_on_the_weighted_sum(spoken_root, tmp_path):
    still = {"dropout": 0.0, "layerdrop": 0.0, "frames_weight": 0.3}
    run, again = (begin(spoken_root, tmp_path, "finetune", clip_norm=norm, **still) for norm in (0.0, 1e-3))
    run.step = again.step = 3
    losses = train_step(run, batch_of(run))
    weights = loss_weights(run.hp)
    assert losses.keys() == {"reading", "frames", "grad_norm", "total"}
    assert losses["total"].item() == pytest.approx((losses["reading"] + 0.3 * losses["frames"]).item())
    assert weights["reading"] == 1.0 and not any(loss.requires_grad for loss in losses.values())
    gradients = [weight.grad for weight in run.net.parameters() if weight.grad is not None]
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
    assert losses["grad_norm"].item() == pytest.approx(norm, rel=1e-4)
    clipped = train_step(again, batch_of(again))
    assert clipped["grad_norm"].item() == pytest.approx(norm, rel=1e-4), "it is told as it was"
    shorter = [weight.grad for weight in again.net.parameters() if weight.grad is not None]
    assert math.sqrt(sum(each.square().sum().item() for each in shorter)) == pytest.approx(1e-3, rel=1e-2)
    for group in run.optim.param_groups:
        assert group["lr"] == learning_rate(run.hp, 3) and group["betas"] == (0.9, 0.98)
        assert group["weight_decay"] == run.hp.weight_decay


def test_pre_training_has_no_decoder(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "pretrain", modality_dropout=0.0)
    before = copied(run.net)
    train_step(run, batch_of(run))
    assert run.net.reader.decoder is None
    assert {"head.mask", "head.embeddings", "reader.encoder.audio.weight"} <= changed(run.net, before)


# Validation


def test_sentences_are_scored_by_their_words_and_letters(spoken_root, tmp_path, monkeypatch):
    run, asked = begin(spoken_root, tmp_path, "finetune"), []

    def read(reader, roi, padding):
        asked.append((reader.net.training, padding.sum(1).tolist()))
        return ["set blue", "lay red"]  # they say "set blue" and "lay now"

    monkeypatch.setattr(expert_run, "read", read)
    assert validate(run) == {"wer": 1 / 4, "cer": 3 / 15} and asked == [(False, [4, 0])]
    run.hp = replace(run.hp, valid_clips=1)
    monkeypatch.setattr(expert_run, "read", lambda *_: ["set blue"])
    assert validate(run) == {"wer": 0.0, "cer": 0.0}


def test_pre_training_is_scored_by_the_units_of_whole_clips_that_are_only_seen(spoken_root, tmp_path):
    run, met = begin(spoken_root, tmp_path, "pretrain"), []
    run.net.reader.encode = lambda *inputs: met.append(inputs) or torch.zeros(2, 18, 32)
    run.net.head.forward = lambda x: torch.eye(5)[1].expand(2, 18, 5)  # always unit 1
    units = torch.cat([run.valid[i, None]["units"] for i in range(2)])
    assert len(units) == 32 and validate(run) == {"errors": pytest.approx((units != 1).float().mean().item())}
    ((roi, padding),) = met
    assert roi.shape == (2, 18, 1, 88, 88) and padding.sum().item() == 4


def test_words_are_scored_by_their_names(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "words")
    assert run.words == ["bin", "blue", "lay", "now", "red", "set"]
    run.net.reader.forward = lambda roi, padding, inside: torch.eye(6)[2].expand(len(roi), 6)  # always "lay"
    assert validate(run) == {"errors": 3 / 4}  # of "set blue" and "lay now"


# Runs


def test_the_log_is_json_lines_and_the_best_run_is_kept(spoken_root, tmp_path, monkeypatch):
    scores = iter([0.5, 0.2, 0.4])
    monkeypatch.setattr(expert_run, "validate", lambda run: {"errors": next(scores)})
    run = begin(spoken_root, tmp_path, "words")
    train(run, tmp_path, workers=0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps, valid = ([line for line in lines if ("valid" in line) == which] for which in (False, True))
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(line.keys() == {"step", "word", "grad_norm", "total", "frames_a_second"} for line in steps)
    assert valid == [{"step": 2 * i, "valid": {"errors": score}} for i, score in ((1, 0.5), (2, 0.2), (3, 0.4))]
    best, last = (checkpoint.load(tmp_path / f"{name}.pt") for name in ("best", "last"))
    assert (best["step"], best["best"]) == (4, 0.2) and (last["step"], last["best"]) == (6, 0.2)


def test_a_run_that_is_not_finite_stops_and_keeps_what_was_sound(spoken_root, tmp_path):
    run = begin(spoken_root, tmp_path, "words")
    train(run, tmp_path, workers=0, stop=1)
    with torch.no_grad():
        run.net.reader.words.weight.fill_(math.inf)
    with pytest.raises(InputError, match="step 2: word is not finite"):
        train(run, tmp_path, workers=0)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 1


@pytest.mark.parametrize("task, model", [("words", "avhubert"), ("pretrain", "words"), ("finetune", "words")])
def test_a_task_refuses_a_model_of_another_task(spoken_root, tmp_path, task, model):
    with pytest.raises(InputError, match=f"{task} cannot train --model {model}: say another --model"):
        begin(spoken_root, tmp_path, task, model=model)


def test_a_run_is_resumed_only_as_the_same(spoken_root, tmp_path):
    run, path = begin(spoken_root, tmp_path, "finetune"), tmp_path / "run.pt"
    run.save(path)
    state = checkpoint.load(path)
    for task, knobs, words in (
        ("finetune", {"dim": 48}, "size mismatch"),
        ("finetune", {"frames_weight": 0.5}, "'said'"),
        ("pretrain", {}, "its task is another"),
    ):
        with pytest.raises(InputError, match=f"run.pt does not fit these flags: .*{words}") as fault:
            begin(spoken_root, tmp_path, task, **knobs).resume(path, state)
        assert "\n" not in str(fault.value)
    run.tokenizer = train_tokenizer(["one two three four five six"], 40, "word")
    assert len(run.tokenizer) == run.net.reader.decoder.embedding.num_embeddings, "of the same size"
    with pytest.raises(InputError, match="its tokenizer is another"):
        run.resume(path, state)


def test_two_clips_are_learnt_by_heart(tmp_path):
    two = dict(list(SPOKEN["train"].items())[:2])
    root = write_spoken_root(tmp_path, {"train": two, "val": two})
    still = {"augment": False, "frames": 0, "dropout": 0.0, "layerdrop": 0.0, "label_smoothing": 0.0, "rise": 0.1}
    knobs = {"lr": 5e-3, "hold": 0.3, "clip_norm": 1.0, "shrink": 2, "grad_mult": 1.0}
    run = begin(root, tmp_path / "run", "finetune", **still, **knobs, max_steps=80, valid_every=80)
    first = validate(run)
    train(run, tmp_path / "run", workers=0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["reading"] < 0.1 and lines[-1]["valid"] == {"wer": 0.0, "cer": 0.0} and first["wer"] > 0


def test_words_begin_with_the_eyes_of_a_pre_trained_reader(spoken_root, tmp_path):
    first = begin(spoken_root, tmp_path / "units", "pretrain")
    first.save(tmp_path / "units.pt")
    run = begin(spoken_root, tmp_path / "words", "words", model="words")
    run.begin_with(tmp_path / "units.pt")
    theirs = first.net.reader.encoder.video.state_dict()
    assert all(torch.equal(theirs[name], part) for name, part in run.net.reader.front.state_dict().items())
