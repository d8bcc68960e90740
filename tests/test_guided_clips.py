"""What the expert is shown fits what is drawn, in any light and turn, and a batch says which window is whose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import retell
from drawn_faces import write_data_root
from small_experts import GUIDED, reader

from data import Clips, GuidedClips, collate
from errors import InputError
from faces import mouth
from faces.augment import Augmentation, match_lighting
from models.decoder import END, PAD

torch.set_num_threads(1)


def guided(root, split="train", **knobs):
    return GuidedClips(root, split, replace(GUIDED, **knobs), reader(root).tokenizer, "aligned", 100)


def pasted(sample, faces):
    """The ROIs of a sample with faces in the frames that are drawn."""
    return mouth.splice(sample["roi"], faces[None], sample["to_face"][None], sample["frames"][None])


def test_a_guided_sample_has_what_is_said_and_the_whole_clip(spoken_root):
    split = guided(spoken_root)
    sample = split[0]
    assert sample["roi"].shape[1:] == (1, 88, 88) and 0 <= sample["roi"].min() and sample["roi"].max() <= 1
    assert sample["tokens"][-1] == END and split.tokenizer.decode(sample["tokens"])
    assert sample["frames"].shape == (6,) and sample["to_face"].shape == (6, 2, 3)
    assert len(sample["roi"]) in (20, 16, 24, 12) and sample["frames"].max() < len(sample["roi"])


def test_a_draw_is_the_same_with_and_without_the_expert(spoken_root):
    plain, with_expert = Clips(spoken_root, "train", replace(GUIDED, augment=0.9)), guided(spoken_root, augment=0.9)
    for draw in range(6):
        with_it = with_expert[draw]
        for name, part in plain[draw].items():
            assert torch.equal(part, with_it[name]), name
        assert all(torch.equal(part, with_expert[draw][name]) for name, part in with_it.items()), "and the next time"


@pytest.mark.parametrize("px", [96, 128])
@pytest.mark.parametrize("draw", range(5))
def test_the_real_faces_pasted_where_they_were_change_hardly_anything(spoken_root, draw, px):
    """Whatever flips, turns, scales and lights them: the ROI undoes the turn, and the filmed frames are lit alike."""
    sample = guided(spoken_root, augment=0.9, face_size=px)[draw]
    found, frames = pasted(sample, sample["target"]), sample["frames"]
    moved = (found - sample["roi"]).abs()[frames]
    others = pasted(sample, sample["target"].flip(-1))[frames]
    assert moved.mean() < 0.06 and moved.mean() < 0.6 * (others - sample["roi"][frames]).abs().mean()
    untouched = torch.ones(len(found), dtype=torch.bool)
    untouched[frames] = False
    assert torch.equal(found[untouched], sample["roi"][untouched])


def test_without_augmentation_the_filmed_mouth_is_the_middle_of_its_window(spoken_root):
    split = guided(spoken_root)
    sample = split[1]
    name = split.paths[split._which(1, np.random.default_rng((GUIDED.seed, 1, 1)))]
    from media.clip import Clip

    middle = torch.from_numpy(Clip(name).mouths()[:, 4:92, 4:92] / 255.0).float()[:, None]
    torch.testing.assert_close(sample["roi"], middle, atol=1e-4, rtol=0)


def test_only_light_is_put_on_what_was_filmed(spoken_root):
    from media.clip import Clip

    clip = Clip(spoken_root / "clips" / "ann" / "one.safetensors")
    windows, look = clip.mouths(), Augmentation(0.0, None)
    assert match_lighting(windows, clip, np.arange(6), look) is windows
    table = np.tile((np.arange(256) * 0.5 + 30).astype(np.uint8), (3, 1))
    look.sigma, look.quality = 1.2, 30
    assert match_lighting(windows, clip, np.arange(6), look) is windows, "what is drawn stays sharp, and so does this"
    look.curves = table, 1.0
    half = match_lighting(windows, clip, np.arange(6), look)
    assert abs(half.astype(float) - (0.5 * windows + 30)).max() < 3


def test_collate_gives_each_window_a_row_and_its_clip(spoken_root):
    samples = [guided(spoken_root, windows=n)[draw] for draw, n in enumerate((1, 2, 3))]
    batch = collate(samples, window=3)
    assert batch["clip"].tolist() == [0, 1, 1, 2, 2, 2]
    assert batch["face"].shape == (6, 3, 6, 96, 96) and batch["to_face"].shape == (6, 3, 2, 3)
    assert torch.equal(batch["target"][4], samples[2]["target"][3:6])
    lengths = [len(sample["roi"]) for sample in samples]
    assert batch["roi"].shape[:2] == batch["roi_padding"].shape == (3, max(lengths))
    assert (~batch["roi_padding"]).sum(1).tolist() == lengths
    tokens, previous = batch["tokens"], batch["previous"]
    assert (previous[:, 0] == END).all()
    for row, before, sample in zip(tokens, previous, samples, strict=True):
        count = len(sample["tokens"])
        assert torch.equal(row[:count], sample["tokens"]) and (row[count:] == PAD).all()
        assert torch.equal(before[1:count], row[: count - 1]) and (before[count:] == PAD).all()


def test_a_window_that_a_short_clip_repeats_is_drawn_once(spoken_root):
    sample = guided(spoken_root, windows=9, window=5)[0]
    starts = sample["frames"][::5].tolist()
    assert len(set(starts)) < len(starts)
    batch = collate([sample], window=5)
    assert len(batch["face"]) == len(set(starts))
    assert torch.equal(batch["frames"][:, 0].unique(sorted=False).sort()[0], torch.tensor(sorted(set(starts))))


def test_published_windows_are_8_percent_of_the_frames(data_root):
    split = Clips(data_root, "train", replace(GUIDED, windows=0, window=2))
    counts = {len(split[draw]["face"]) // 2 for draw in range(8)}
    assert counts <= {int(0.08 * frames) for frames in (30, 36, 33, 24)} and counts


def test_clips_that_the_expert_cannot_read_are_refused_by_name(spoken_root, tmp_path):
    root = write_data_root(tmp_path, {"train": {"ann/one": 12}})
    path, tokenizer = root / "clips" / "ann" / "one.safetensors", reader(spoken_root).tokenizer
    for changes, roi, longest, words in (
        ({"text": ""}, "aligned", 100, "no words"),
        ({"text": "SET BLUE"}, "lrs2", 100, "360x288 px.*--roi aligned"),
        ({"text": "SET BLUE"}, "aligned", 11, "12 frames, the lip expert takes 11"),
    ):
        retell(path, **changes)
        with pytest.raises(InputError, match=words) as fault:
            GuidedClips(root, "train", replace(GUIDED, windows=1), tokenizer, roi, longest)[0]
        assert str(path) in str(fault.value) and "\n" not in str(fault.value)


def test_every_clip_that_the_expert_cannot_read_is_named(spoken_root, tmp_path):
    names = [f"ann/clip{i}" for i in range(24)]
    root = write_data_root(tmp_path, {"train": dict.fromkeys(names, 12)})
    for name in names:
        retell(root / "clips" / f"{name}.safetensors", text="SET BLUE" if name == names[1] else "")
    with pytest.raises(InputError) as fault:
        GuidedClips(root, "train", replace(GUIDED, windows=1), reader(spoken_root).tokenizer, "aligned", 100).check()
    said = str(fault.value)
    for words in (f"{root / 'train.txt'}: 23 of 24 clips cannot be used", "clip0.safetensors", "no words"):
        assert words in said
    assert f"{names[1]}," not in said and said.endswith(f"the others: {', '.join(names[2:22])} and 2 more")


def test_clips_that_the_expert_cannot_read_are_left_out_with_their_reasons(spoken_root, tmp_path):
    root = write_data_root(tmp_path, {"train": {"ann/one": 12, "ann/two": 20, "bob/one": 12, "bob/two": 9}})
    for name, text in (("ann/one", "SET BLUE"), ("ann/two", "SET"), ("bob/one", "SET ÄÖ"), ("bob/two", "")):
        retell(root / "clips" / f"{name}.safetensors", text=text)
    tokenizer = reader(spoken_root).tokenizer
    for faithful, windows, kept in (
        (False, True, ["ann/one"]),
        (True, True, ["ann/one", "bob/one"]),  # as published, unknown characters are read as such
        (False, False, ["ann/one"]),
    ):
        split = GuidedClips(root, "train", replace(GUIDED, window=10, faithful=faithful), tokenizer, "aligned", 15)
        wanted = {name: why for name, why in split.unusable(windows).items()}
        assert len(split) == 4, "only looked at"
        assert split.leave_out(windows) == wanted
        assert split.names == kept and [f"{path.parent.name}/{path.stem}" for path in split.paths] == kept
        assert sorted(wanted) == sorted({"ann/one", "ann/two", "bob/one", "bob/two"} - set(kept))
        assert "20 frames, the lip expert takes 15" in wanted["ann/two"]
        assert ("too short for windows of 10" if windows else "no words") in wanted["bob/two"]
        assert {name: len(clips) for name, clips in split.speakers.items()} == {k.split("/")[0]: 1 for k in kept}
        assert split.leave_out(windows) == {} and split.names == kept, "there is nothing left to leave out"


def test_what_is_left_over_is_drawn_as_before(spoken_root):
    """The draws of a split from which nothing is left out do not change."""
    split = guided(spoken_root)
    before = [split[draw] for draw in range(4)]
    assert split.leave_out() == {}
    for draw, wanted in enumerate(before):
        assert all(torch.equal(part, wanted[name]) for name, part in split[draw].items())
