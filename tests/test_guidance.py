"""The expert's judgement reaches the drawn faces and never the expert; what it is shown is spliced exactly."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_experts import EXPERT, GUIDED, expert, reader

from data import GuidedClips, collate
from errors import InputError
from experts.guidance import LipExpert, shrunk
from hparams import loss_weights
from losses import adversarial_loss, contrastive_loss, counter_examples, published_contrastive_loss
from models.decoder import PAD
from models.talklip import pick
from train import add_gradients, build, shares

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def batch(spoken_root):
    """Two clips of unlike length, with two windows of three frames each."""
    split = GuidedClips(spoken_root, "train", GUIDED, reader(spoken_root).tokenizer, "aligned", 100)
    batch = collate([split[0], split[1]], GUIDED.window)
    assert batch["roi_padding"].any()
    return batch


def faces_like(batch):
    return torch.rand_like(batch["target"]).requires_grad_()


def plainly(teacher, fake, batch):
    """The features of `features`, with the whole video through the front end, gradients and all."""
    video, _ = teacher.rois(fake, batch)
    return teacher.net.encoder(video=video, padding=batch["roi_padding"])


# What it is shown, and how it looks


def test_only_drawn_frames_pass_with_gradients_and_the_features_are_the_same(spoken_root, batch):
    teacher, passed = expert(spoken_root), []
    see = teacher.net.encoder.video.features

    def counted(stacks):
        passed.append((len(stacks), torch.is_grad_enabled()))
        return see(stacks)

    fake = faces_like(batch)
    wanted = plainly(teacher, fake, batch)
    teacher.net.encoder.video.features = counted
    found = teacher.features(fake, batch)
    del teacher.net.encoder.video.features
    there = ~batch["roi_padding"]
    torch.testing.assert_close(found[there], wanted[there], atol=1e-5, rtol=1e-5)
    near = set()
    for clip, frames in zip(batch["clip"].tolist(), batch["frames"].tolist(), strict=True):
        length = int(there[clip].sum())
        near |= {(clip, t + k) for t in frames for k in range(-2, 3) if 0 <= t + k < length}
    assert passed == [(len(near), True), (int(there.sum()) - len(near), False)]
    gradients = [
        torch.autograd.grad(F.normalize(each[there], dim=-1)[:, :7].sum(), fake)[0] for each in (found, wanted)
    ]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)
    assert gradients[0].abs().max() > 0


def test_computing_twice_changes_nothing(spoken_root, batch):
    fake, found = faces_like(batch), []
    for recompute in (False, True):
        teacher = expert(spoken_root, recompute=recompute)
        loss = teacher.reading_loss(teacher.features(fake, batch), batch, False)
        found.append((loss, torch.autograd.grad(loss, fake)[0]))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_it_never_learns_and_the_drawn_faces_do(spoken_root, batch):
    teacher = expert(spoken_root)
    before = {name: value.clone() for name, value in teacher.net.state_dict().items()}
    fake = faces_like(batch)
    memory = teacher.features(fake, batch)
    loss = teacher.reading_loss(memory, batch, False)
    loss = loss + teacher.contrastive_loss(torch.randn(*batch["index"].shape, 32), memory, batch, False)
    loss.backward()
    reached = fake.grad.flatten(0, 1).abs().amax((1, 2, 3))
    assert (reached > 0).all(), "each drawn face"
    rows = fake.grad.abs().amax((0, 1, 2, 4))
    assert rows[60:80].min() > 0 and rows[:20].max() == 0, "its mouth, not its forehead"
    assert not teacher.net.training and all(weight.grad is None for weight in teacher.net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.net.state_dict().items())


def test_the_gradient_is_whole_unless_it_is_to_be_the_published_tenth(spoken_root, batch):
    fake, found = faces_like(batch), []
    for faithful in (False, True):
        teacher = expert(spoken_root, faithful=faithful)
        loss = teacher.reading_loss(teacher.features(fake, batch), batch, True)
        found.append(torch.autograd.grad(loss, fake)[0])
    torch.testing.assert_close(0.1 * found[0], found[1], atol=1e-9, rtol=1e-3)


def test_the_sum_is_the_mean_times_the_tokens(spoken_root, batch):
    teacher = expert(spoken_root)
    memory = teacher.features(batch["target"], batch)
    tokens = (batch["tokens"] != PAD).sum()
    summed, mean = (teacher.reading_loss(memory, batch, each) for each in (True, False))
    torch.testing.assert_close(summed, mean * tokens)


def test_larger_faces_are_shown_at_their_own_scale_without_aliasing():
    fine = torch.zeros(1, 1, 3, 256, 256)
    fine[..., ::2] = 1.0
    assert abs(shrunk(fine)[..., 4:-4, 4:-4] - 0.5).max() < 0.1
    small = torch.rand(1, 2, 3, 96, 96)
    assert shrunk(small) is small
    whole = torch.rand(2, 3, 3, 128, 128, requires_grad=True)
    assert shrunk(whole).shape == (2, 3, 3, 96, 96)
    shrunk(whole).sum().backward()
    assert whole.grad.min() > 0


def test_a_reader_of_another_kind_is_refused(spoken_root):
    other = reader(spoken_root)
    other.hp = replace(EXPERT, model="words", frames=0)
    with pytest.raises(InputError, match="another kind"):
        LipExpert(other, "cpu")


# Its losses in a step


def test_the_step_gives_the_generator_the_gradient_of_the_sum_of_its_losses(spoken_root, batch):
    hp = replace(
        GUIDED, lip_from=0, adv_from=99, audio_layerdrop=0.0, audio_dropout=0.0, mouth_weight=0.0, lips_weight=0.0
    )
    teacher = expert(spoken_root)
    state = build(hp, torch.device("cpu"))
    generator = state.nets["generator"].train()
    losses = add_gradients(state, batch, loss_weights(hp, 0), teacher, *shares([batch], hp))
    found = {name: weight.grad.clone() for name, weight in generator.named_parameters() if weight.grad is not None}
    generator.zero_grad()
    speech = generator.encode_audio(batch["audio"], batch["audio_padding"])
    heard = torch.stack([speech[c, i] for c, i in zip(batch["clip"], batch["index"], strict=True)])
    fake = generator.generate(batch["face"], heard)
    memory = plainly(teacher, fake, batch)
    logits = teacher.net.decoder(batch["previous"], memory, batch["roi_padding"])
    text = batch["tokens"] != PAD
    logs, each = logits.log_softmax(-1), 0.1 / (logits.shape[-1] - 1)
    reading = -(0.9 - each) * logs[text].gather(-1, batch["tokens"][text][:, None]).sum() - each * logs[text].sum()
    seen = torch.cat([memory[c, f] for c, f in zip(batch["clip"], batch["frames"], strict=True)])
    matched = contrastive_loss(
        generator.sync(F.normalize(heard.flatten(0, 1), dim=-1)),
        seen,
        batch["clip"].repeat_interleave(3),
        batch["frames"].flatten(),
    )
    total = hp.l1_weight * (fake - batch["target"]).abs().mean()
    total = total + hp.lip_weight * reading / text.sum() + hp.contrastive_weight * matched
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-5)
    total.backward()
    for name, weight in generator.named_parameters():
        assert (weight.grad is None) == (name not in found), name
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, atol=1e-6, rtol=2e-3)
    assert found["sync.weight"].abs().max() > 0 and found["speech.blocks.1.up.weight"].abs().max() > 0


def test_pick_reads_each_window_in_its_own_clip():
    speech = torch.arange(2 * 5).view(2, 5, 1).float()
    clip, index = torch.tensor([1, 0, 1]), torch.tensor([[0, 4], [2, 3], [1, 1]])
    assert pick(speech[clip], index)[..., 0].tolist() == [[5, 9], [2, 3], [6, 6]]


def test_contrastive_loss_is_low_where_sound_and_lips_agree():
    seen = F.normalize(torch.randn(12, 16), dim=-1)
    clips, frames = torch.arange(12) // 6, torch.arange(12) % 6 * 4
    right = contrastive_loss(3.0 * seen, seen, clips, frames)
    wrong = contrastive_loss(3.0 * seen.roll(1, 0), seen, clips, frames)
    assert right < 0.05 < 3 < wrong
    both = torch.eye(2)
    lone = contrastive_loss(both, both, torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert lone.item() == pytest.approx(torch.tensor(1 + 1 / torch.e ** (1 / 0.07)).log().item(), abs=1e-6)


def test_the_losses_are_taken_in_32_bits_under_autocast():
    heard, seen = torch.randn(40, 64), torch.randn(40, 64)
    rows = torch.arange(40), torch.zeros(40)
    wanted = contrastive_loss(heard, seen, *rows), adversarial_loss(heard[:, :1], True, published=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(heard, seen, *rows), adversarial_loss(heard[:, :1], True, published=True)
    assert torch.equal(torch.stack(found), torch.stack(wanted))


def test_neighbours_are_no_counter_examples():
    same = torch.ones(3, 4)
    assert contrastive_loss(same, same, torch.zeros(3), torch.tensor([5, 6, 7])).item() == 0
    apart = contrastive_loss(same, same, torch.tensor([0, 0, 0]), torch.tensor([5, 8, 11]))
    assert apart.item() == pytest.approx(torch.tensor(3.0).log().item())
    clips = contrastive_loss(same, same, torch.tensor([0, 1, 2]), torch.tensor([5, 5, 5]))
    assert clips.item() == pytest.approx(torch.tensor(3.0).log().item())


def test_published_counter_examples_are_up_to_100_others():
    for count, wanted in ((1, 0), (2, 1), (15, 7), (300, 100)):
        chosen = counter_examples(count)
        assert chosen.shape == (count, wanted)
        assert not (chosen == torch.arange(count)[:, None]).any()
        assert all(len(set(row)) == wanted for row in chosen.tolist())
    alone = published_contrastive_loss(torch.randn(1, 4), torch.randn(1, 4), counter_examples(1))
    assert alone.item() == 0
