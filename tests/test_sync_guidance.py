"""The sync expert's verdict reaches the generated lips and never the expert, in a stage that is saved and resumed."""

import math
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from small_experts import SYNCED, sync_expert, write_sync_expert
from small_runs import CPU, command, flags_of, flat, go, metrics

import checkpoint
import train
from data import Clips, collate
from errors import InputError
from experts.sync_guidance import sync_expert_of
from hparams import METHODS, WEIGHTS, ExpertHParams, preset, stage_plan
from losses import matching_loss, pair_loss
from media.clip import Clip
from models import build_reader
from training import Plateaus

torch.set_num_threads(1)
WAITS = replace(SYNCED, sync_below=0.75, sync_from=0)  # for a low sync loss in validation


@pytest.fixture(scope="module")
def batch(spoken_root):
    """Two clips with a window of five frames each, of one of which the last sound is not whole."""
    split = Clips(spoken_root, "train", SYNCED)
    batch = collate([split[0], split[1]], SYNCED.window)
    assert batch["sync_mel"].shape == (2, 5, 1, 80, 16)
    return batch


def faces_like(batch):
    torch.manual_seed(1)
    return torch.rand_like(batch["target"]).requires_grad_()


# What it is shown


def test_every_face_comes_with_the_sound_of_its_own_clip(spoken_root):
    split = Clips(spoken_root, "train", SYNCED)
    mel = torch.from_numpy(Clip(split.paths[0]).mel).float()  # 20 frames, 65 steps of which the last windows lack some
    told = split.whole(0)["sync_mel"][0]
    for t in (0, 7, 15):
        assert torch.equal(told[t, 0], mel[:, int(3.2 * t) : int(3.2 * t) + 16])
    assert told[16:].isnan().all() and not told[:16].isnan().any()
    assert "sync_mel" not in Clips(spoken_root, "train", replace(SYNCED, sync_weight=0.0))[0]


@pytest.mark.parametrize("kind", ["matching", "pairs"])
def test_its_verdict_reaches_the_lower_faces_and_never_the_expert(batch, kind):
    teacher, fake = sync_expert(sync_loss=kind), faces_like(batch)
    before = flat(teacher.net.state_dict())
    teacher.loss(*teacher.embed(fake, batch)).backward()
    reached = fake.grad.abs().sum((0, 2, 4))  # (T, H)
    assert (reached[:, 48:] > 0).all() and not reached[:, :48].any()
    assert all(weight.grad is None for weight in teacher.net.parameters()) and not teacher.net.training
    assert flat(teacher.net.state_dict()) == before


def test_it_teaches_by_the_loss_and_the_temperature_it_was_trained_with(batch):
    faces, mels = batch["target"], batch["sync_mel"]
    mels = mels.where(~mels.isnan(), 0.5)
    whole = batch | {"sync_mel": mels}
    for knobs in ({"sync_loss": "matching", "temperature": 0.2}, {"sync_loss": "pairs"}):
        teacher = sync_expert(**knobs)
        video, sounds = teacher.net.embed_video(faces)[:, 0], teacher.net.embed_audio(mels)
        if "temperature" in knobs:  # the sounds from the later four frames on are of other times, so false
            wanted = matching_loss(video, sounds[:, 0], 0.2, sounds[:, 1:].flatten(0, 1))
        else:
            wanted = pair_loss(video, sounds[:, 0], torch.ones(2, dtype=torch.bool))
            cosines = (video * sounds[:, 0]).sum(-1)
            assert wanted.item() == pytest.approx(-cosines.log().mean().item(), rel=1e-5)
        assert teacher.loss(*teacher.embed(faces, whole)).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_windows_without_their_whole_sound_are_left_out(batch):
    teacher, faces = sync_expert(), batch["target"]
    mels = batch["sync_mel"].where(~batch["sync_mel"].isnan(), 0.5)
    mels[1, 3:] = math.nan
    video, audio, others = teacher.embed(faces, batch | {"sync_mel": mels})
    assert (len(video), len(audio), len(others)) == (2, 2, 4 + 2)
    mels[1] = math.nan
    video, audio, others = teacher.embed(faces, batch | {"sync_mel": mels})
    assert torch.equal(audio, teacher.net.embed_audio(mels[:1, :1])[0]) and (len(video), len(others)) == (1, 4)
    for kind in ("matching", "pairs"):
        fake, teacher = faces_like(batch), sync_expert(sync_loss=kind)
        loss = teacher.loss(*teacher.embed(fake, batch | {"sync_mel": torch.full_like(mels, math.nan)}))
        loss.backward()
        assert loss.item() == 0 and fake.grad.abs().max() == 0


def test_larger_faces_are_shown_at_the_experts_own_size(batch):
    teacher = sync_expert()
    larger = batch["target"].repeat_interleave(2, -1).repeat_interleave(2, -2)
    shown, own = (teacher.embed(faces, batch)[0] for faces in (larger, batch["target"]))
    assert shown.shape == own.shape and (shown * own).sum(-1).min() > 0.98


def test_its_loss_is_in_32_bits_under_autocast(batch):
    for kind in ("matching", "pairs"):
        teacher = sync_expert(sync_loss=kind)
        wanted = teacher.loss(*teacher.embed(batch["target"], batch))
        with torch.autocast("cpu", torch.bfloat16):
            found = teacher.loss(*teacher.embed(batch["target"], batch))
        assert found.dtype == torch.float32 and found.item() == pytest.approx(wanted.item(), rel=0.2)


# The stage


def with_sync(monkeypatch, losses):
    """Lets validations find these sync losses, {step: loss}."""
    validate = train.validate

    def told(clips, expert, state, strip, sync_expert):
        found = validate(clips, expert, state, strip, sync_expert)
        return found._replace(scores=found.scores | {"sync": losses[state.step]})

    monkeypatch.setattr(train, "validate", told)


def steps_with_sync(folder):
    return [line["step"] for line in metrics(folder) if "sync" in line]


def test_the_sync_loss_joins_with_the_first_validation_below_the_threshold(spoken_root, tmp_path, monkeypatch, capsys):
    with_sync(monkeypatch, {2: 0.76, 4: 0.75, 6: 0.74, 8: 9.0})
    state = go(spoken_root, tmp_path, 8, WAITS, sync_expert=sync_expert(sync_loss="pairs"))
    assert state.plateaus.starts == {"sync_from": 6} and state.hp.sync_from == 6, "and it stays"
    assert steps_with_sync(tmp_path) == [7, 8]
    assert "step 6: a sync loss of 0.7400, below 0.75, the stage of sync begins" in capsys.readouterr().err
    assert [line["valid"]["sync"] for line in metrics(tmp_path) if "valid" in line] == [0.76, 0.75, 0.74, 9.0]
    best = checkpoint.load(tmp_path / "best.pt")
    assert best["step"] == 8 and best["best"] < 0, "the best under the expert beats any from before it"


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_run_that_waits_is_resumed_exactly_before_at_and_after_the_switch(spoken_root, tmp_path, monkeypatch, stop):
    with_sync(monkeypatch, {2: 0.8, 4: 0.7, 6: 0.9, 8: 0.9})
    teacher, last = sync_expert(sync_loss="pairs"), tmp_path / "parts" / "last.pt"
    go(spoken_root, tmp_path / "whole", 8, WAITS, sync_expert=teacher)
    go(spoken_root, tmp_path / "parts", stop, WAITS, sync_expert=teacher)
    assert checkpoint.load(last)["plateaus"]["starts"] == {"sync_from": 4 if stop >= 4 else None}
    go(spoken_root, tmp_path / "parts", 8, WAITS, path=last, sync_expert=teacher)
    assert flat(checkpoint.load(tmp_path / "whole" / "last.pt")) == flat(checkpoint.load(last))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert steps_with_sync(tmp_path / "whole") == [5, 6, 7, 8]


@pytest.mark.parametrize("stop", [3])
def test_a_run_under_an_infonce_teacher_is_resumed_exactly(spoken_root, tmp_path, stop):
    hp = replace(SYNCED, adv_weight=0.01, adv_from=4)
    go(spoken_root, tmp_path / "whole", 8, hp, sync_expert=sync_expert())
    go(spoken_root, tmp_path / "parts", stop, hp, sync_expert=sync_expert())
    go(spoken_root, tmp_path / "parts", 8, hp, path=tmp_path / "parts" / "last.pt", sync_expert=sync_expert())
    whole, parts = (flat(checkpoint.load(tmp_path / name / "last.pt")) for name in ("whole", "parts"))
    assert whole == parts and steps_with_sync(tmp_path / "whole") == [4, 5, 6, 7, 8]


def test_a_stage_that_never_comes_is_named_at_the_end(spoken_root, tmp_path, capsys):
    state = go(spoken_root, tmp_path, 2, replace(WAITS, max_steps=2, sync_below=1e-9), sync_expert=sync_expert())
    assert state.plateaus.starts == {"sync_from": None} and not steps_with_sync(tmp_path)
    assert "never was below 1e-09: the sync loss never began" in capsys.readouterr().err


def test_validation_generates_every_frame_and_means_over_clips(spoken_root):
    teacher, clips = sync_expert(), Clips(spoken_root, "val", SYNCED)
    state = train.build(SYNCED, CPU)
    found = train.validate(clips, None, state, None, teacher).scores["sync"]
    alone = [train.expert_scores(state.mean, [teacher], one, SYNCED, CPU)["sync"] for one in halves(spoken_root)]
    assert found == pytest.approx(sum(alone) / 2, rel=1e-5) and len(alone) == 2


def halves(root):
    """The validation clips one by one."""
    for i in range(2):
        clips = Clips(root, "val", SYNCED)
        clips.names, clips.paths = clips.names[i : i + 1], clips.paths[i : i + 1]
        yield clips


def test_both_stages_can_wait_in_one_run():
    hp = replace(WAITS, patience=1, lip_batch_size=2, lip_from=5)
    plateaus = Plateaus.of(hp)
    assert plateaus.starts == {"lip_from": None, "sync_from": None} and plateaus.waiting == ["lip_from"]
    assert plateaus.kinds == {"patience": True, "sync_below": True}
    assert not plateaus.synced(0.75, hp, 2) and plateaus.synced(0.7, hp, 4) and not plateaus.synced(0.1, hp, 6)
    assert plateaus.applied(hp).sync_from == 4 and plateaus.applied(hp).lip_from == hp.max_steps
    assert [plateaus.validated(0.5, hp, step) for step in (8, 10, 12)] == [None, None, "lip"]


def test_the_plan_says_what_the_sync_loss_waits_for():
    waits = preset("wav2lip_gan")
    assert stage_plan(Plateaus.of(waits).applied(waits)) == [
        "from step 0: l1 loss x 0.9, adv loss x 0.07",
        "then, when validation has a sync loss below 0.75: sync loss x 0.03",
    ]
    assert stage_plan(replace(waits, sync_from=9000))[1] == "from step 9000: sync loss x 0.03"
    assert "from step 1000: sync loss x 0.003" in stage_plan(preset("compact_wav2lip"))


# The presets


def test_the_published_rows_have_the_published_weights():
    rows = {name: preset(name) for name in ("wav2lip", "wav2lip_gan")}
    weights = [(hp.sync_weight, hp.adv_weight, hp.sync_below) for hp in rows.values()]
    assert weights == [(0.01, 0, 0.75), (0.03, 0.07, 0.75)]
    for hp in rows.values():
        assert hp.l1_weight + hp.adv_weight + hp.sync_weight == pytest.approx(1)
        assert (hp.model, hp.speech, hp.window, hp.windows, hp.guided, hp.width) == ("wav2lip", "local", 5, 1, False, 1)
    differ = [name for name, value in asdict(rows["wav2lip"]).items() if value != getattr(rows["wav2lip_gan"], name)]
    assert differ == ["l1_weight", "adv_weight", "sync_weight"]
    assert METHODS["wav2lip"] == "compact_wav2lip" and preset("compact_wav2lip").width == 0.5


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"window": 4}, "--window 4: the sync expert sees 5 frames"),
        ({"lip_window": 2}, "--lip_window 2: the sync expert sees 5 frames"),
        ({"model": "warp", "speech": "whisper", "face_size": 128}, "--model warp generates whole crops"),
    ],
)
def test_knobs_that_no_sync_expert_can_follow_are_refused(knobs, words):
    with pytest.raises(InputError, match=words):
        replace(SYNCED, **knobs)


# The command


FLAGS = flags_of(SYNCED)


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_the_method_trains_resumes_and_exports_under_a_sync_expert(spoken_root, tmp_path, capsys):
    teacher, weights = write_sync_expert(tmp_path / "teacher.safetensors"), tmp_path / "w.safetensors"
    small = ["--width=0.0625", "--batch_size=2", "--log_every=1", "--valid_clips=1", "--no-amp", "--sync_from=2"]
    flags = ["--method=wav2lip", *small, "--sync_expert", teacher]
    assert command(spoken_root, tmp_path, *flags, "--stop=1") == 0
    said = capsys.readouterr().err
    assert f"tiny: compact_wav2lip under {teacher} (the published size: --preset wav2lip --sync_expert FILE) on" in said
    assert command(spoken_root, tmp_path, "--stop=3", "--sync_expert", teacher, "--export", weights) == 0
    assert steps_with_sync(tmp_path / "tiny") == [3]
    state = checkpoint.load(tmp_path / "tiny" / "last.pt")
    assert state["sync_expert"] == checkpoint.sha256(teacher) and state["expert"] is None
    assert checkpoint.load_generator(weights)[1].model == "wav2lip"


def test_a_missing_teacher_is_answered_with_the_command_that_trains_one(spoken_root, tmp_path, capsys):
    root = tmp_path / "my root"
    shutil.copytree(spoken_root, root)
    for row, name in (("compact_wav2lip", "compact_wav2lip_sync"), ("wav2lip", "wav2lip_sync")):
        assert command(root, tmp_path, f"--preset={row}") == 1
        wanted = f"python train_expert.py sync --preset {name} --data_root '{root}' --name {name}"
        line = last_line(capsys)
        assert "--sync_expert FILE is missing, none is shipped. To train one: " in line
        assert line.endswith(f"{wanted} --export {name}.safetensors")
    assert not (tmp_path / "tiny").exists()


def test_the_model_that_judges_does_not_teach(spoken_root, tmp_path, capsys):
    copied = tmp_path / "teacher.safetensors"
    shutil.copy(WEIGHTS["sync"], copied)
    named = write_sync_expert(tmp_path / WEIGHTS["sync"].name)
    why = "is the model that judges sync: what it taught, it could not judge"
    for path in (WEIGHTS["sync"], copied, named):
        assert command(spoken_root, tmp_path, *FLAGS, "--sync_expert", path) == 1
        assert last_line(capsys).endswith(f"--sync_expert {path} {why}")


def test_files_that_cannot_teach_are_refused_in_one_line(spoken_root, tmp_path, capsys):
    teacher = write_sync_expert(tmp_path / "teacher.safetensors")
    hp = replace(preset("compact_sync", ExpertHParams), width=1 / 16)
    mouths = tmp_path / "mouths.safetensors"
    checkpoint.export(mouths, build_reader(hp, None), hp, network="sync")
    cases = (
        (["--sync_expert", mouths], "is not of Wav2Lip's kind, which sees the lower half of faces"),
        (["--sync_expert", WEIGHTS["expert"]], "holds no sync model but a lip reader"),
        (["--sync_expert", tmp_path / "none.pth"], "no checkpoint at"),
        (["--sync_expert", teacher, "--sync_below=0.75"], "was trained by InfoNCE: say --sync_below 0 and a step"),
    )
    for flags, words in cases:
        assert command(spoken_root, tmp_path, *FLAGS, *flags) == 1
        assert words in last_line(capsys), flags
    assert not (tmp_path / "tiny").exists()


def test_a_run_that_never_reaches_its_sync_loss_needs_no_expert():
    assert sync_expert_of(None, replace(SYNCED, sync_from=8), CPU, "root") is None
    assert sync_expert_of(None, replace(SYNCED, sync_weight=0.0, sync_below=0.75), CPU, "root") is None
    with pytest.raises(InputError, match="--sync_expert FILE is missing"):
        sync_expert_of(None, WAITS, CPU, "root")


def test_a_run_is_resumed_under_its_own_sync_expert_and_its_own_schedule(spoken_root, tmp_path, capsys):
    teacher = write_sync_expert(tmp_path / "teacher.safetensors", sync_loss="pairs")
    other = write_sync_expert(tmp_path / "other.safetensors", sync_loss="pairs", seed=9)
    assert command(spoken_root, tmp_path, *flags_of(WAITS), "--sync_expert", teacher, "--stop=1") == 0
    last = tmp_path / "tiny" / "last.pt"
    assert command(spoken_root, tmp_path, "--sync_expert", other) == 1
    assert f"not the sync_expert that {last} was begun with" in last_line(capsys)
    assert command(spoken_root, tmp_path, "--sync_expert", teacher, "--sync_below=0", "--sync_from=2") == 1
    assert f"{last} began with --sync_below: that cannot change" in last_line(capsys)
    assert command(spoken_root, tmp_path, "--sync_expert", teacher, "--stop=2") == 0


def test_a_run_from_before_there_was_a_sync_loss_is_resumed(spoken_root, tmp_path):
    hp = replace(SYNCED, sync_weight=0.0, sync_from=0)
    for runs in (tmp_path / "new", tmp_path / "old"):
        assert command(spoken_root, runs, *flags_of(hp), "--stop=3") == 0
        if runs.name == "old":
            state = torch.load(runs / "tiny" / "last.pt", weights_only=True)
            del state["sync_expert"]
            for name in ("sync_weight", "sync_from", "sync_below"):
                del state["hparams"][name]
            torch.save(state, runs / "tiny" / "last.pt")
        assert command(spoken_root, runs, "--stop=6") == 0
    new, old = (flat(checkpoint.load(tmp_path / name / "tiny" / "last.pt")) for name in ("new", "old"))
    assert new == old
