"""Training samples of the sync model: windows of lips and the sound of the same time."""

from argparse import Namespace
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from drawn_faces import write_data_root
from expert_runs import begin
from test_sync import HP

import audio
import train_expert
from audio import whole_mel_windows
from data import collate
from errors import InputError
from experts.data import SyncWindows
from experts.sync import mismatches
from hparams import ExpertHParams, preset
from losses import matching_loss

torch.set_num_threads(1)
HP = replace(HP, frames=12)


def steps_of(mels, mel):
    """Where in the mel spectrogram each window begins."""
    return [int(np.abs(mel.T[:, None] - window[0, :, :1].T[None]).sum((1, 2)).argmin()) for window in mels.numpy()]


def test_a_window_has_the_sound_of_its_own_time(data_root):
    clips = SyncWindows(data_root, "train", replace(HP, augment=False))
    whole = clips[0, None]
    clip = clips.load(0)[0]
    assert whole["roi"].shape[1:] == (1, 88, 88) and len(whole["mel"]) == len(whole["roi"]) - 4
    assert steps_of(whole["mel"], clip.mel) == [int(3.2 * t + 1e-6) for t in range(len(whole["mel"]))]
    part = clips[0, 7]
    assert len(part["roi"]) == 12 and part["mel"].shape == (8, 1, 80, 16)
    first = next(t for t in range(len(whole["roi"])) if torch.equal(whole["roi"][t], part["roi"][0]))
    assert torch.equal(whole["roi"][first : first + 12], part["roi"])
    assert torch.equal(whole["mel"][first : first + 8], part["mel"])


def test_a_draw_is_always_the_same_and_draws_differ(data_root):
    once, again = SyncWindows(data_root, "train", HP), SyncWindows(data_root, "train", HP)
    assert all(torch.equal(once[1, 5][name], again[1, 5][name]) for name in ("roi", "mel"))
    assert not torch.equal(once[1, 5]["roi"], once[1, 6]["roi"])
    assert once.lengths == [12] * len(once)


def test_windows_without_their_whole_sound_are_left_out(data_root):
    assert [whole_mel_windows(steps) for steps in (15, 16, 19, 20, 241)] == [0, 1, 1, 2, 71]
    mel = audio.mel_spectrogram(np.zeros(75 * 640, np.int16))
    assert whole_mel_windows(mel.shape[1]) == 71 == 75 - 4, "of 75 frames with 3 s of sound all are"
    clips = SyncWindows(data_root, "train", HP)
    clip = clips.load(0)[0]
    clip.mel = clip.mel[:, :40]
    assert len(clips[0, None]["roi"]) == whole_mel_windows(40) + 4 == 12


def test_clips_that_are_too_short_are_named(tmp_path):
    root = write_data_root(tmp_path, {"train": {"ann/one": 5}, "val": {"ann/two": 9}})
    with pytest.raises(InputError, match="ann/one.* needs 6 frames"):
        SyncWindows(root, "train", HP)
    with pytest.raises(InputError, match="ann/two.* needs 6 frames, of the clip and of --frames"):
        SyncWindows(root, "val", replace(HP, frames=5))
    clips = SyncWindows(root, "val", HP)
    clips.load(0)[0].mel = np.zeros((80, 17), np.float32)
    with pytest.raises(InputError, match="ann/two.* its sound ends after 5 frames"):
        clips[0, None]


def test_matching_loss_is_the_known_number_and_chance_is_the_logarithm_of_all():
    seen = torch.eye(3)[[0, 1]]
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    heard = torch.cat([logits.T, torch.zeros(2, 1)], dim=1) / 2
    wanted = sum(torch.logsumexp(part, 1).mean() for part in (logits, logits.T)) / 2
    assert matching_loss(seen, heard, 0.5).item() == pytest.approx(wanted.item())
    same = torch.ones(7, 4) / 2
    assert matching_loss(same, same, 0.07).item() == pytest.approx(np.log(7))


def test_padding_is_no_window(data_root, tmp_path):
    run = begin(data_root, tmp_path, "sync", HP)
    batch = collate([run.clips[i, None] for i in (0, 3)])  # of 30 and 24 frames
    run.objective.eval()
    losses = run.objective(batch)
    rows = sum(len(run.clips[i, None]["mel"]) for i in (0, 3))
    assert losses["chance"].item() == pytest.approx(np.log(rows)) and rows < batch["mel"][:, :, 0, 0, 0].numel()
    batch["mel"][1, len(run.clips[3, None]["mel"]) :] = 9.0
    batch["roi"][1, len(run.clips[3, None]["roi"]) :] = 0.3
    assert torch.equal(run.objective(batch)["sync"], losses["sync"])


def test_mistaken_windows_and_clips_are_counted(data_root):
    clips = SyncWindows(data_root, "val", HP)

    class Clock:
        """Embeds windows as their number, pictures so many too late."""

        late = 0

        def embed_video(self, roi):
            return (torch.arange(float(roi.shape[1] - 4)) - self.late)[None, :, None]

        def embed_audio(self, mels):
            return torch.arange(float(mels.shape[1]))[None, :, None]

    net = Clock()
    assert mismatches(net, clips, 9, "cpu") == {"errors": 0.0, "offsets": 0.0}
    net.late = 1
    assert mismatches(net, clips, 9, "cpu")["offsets"] == 0.0 < 0.9 < mismatches(net, clips, 9, "cpu")["errors"] < 1
    net.late = 2
    assert mismatches(net, clips, 1, "cpu")["offsets"] == 1.0


def test_a_preset_trains_a_model_of_its_own(tmp_path):
    for task, hp in (("pretrain", HP), ("sync", preset("compact", ExpertHParams))):
        with pytest.raises(InputError, match=f"{task} cannot train --model {hp.model}"):
            train_expert.knobs_of(Namespace(task=task, init=None, **asdict(hp)), tmp_path / "last.pt")
    with pytest.raises(InputError, match="--shrink 1: a sync model takes"):
        replace(HP, shrink=1)
