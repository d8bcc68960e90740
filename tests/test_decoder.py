"""The decoder: place by place as all at once, blind to what it must not see, and the published one's numbers."""

import copy
import json

import pytest
import torch
from filling import REFERENCE, difference, filled, fixture, meets, normal, published

from experts.beam_search import beam_search
from hparams import ExpertHParams, preset
from models import build_reader
from models.decoder import Decoder, halves, interleaved
from models.published.experts import convert_expert, convert_pretrained

torch.set_num_threads(1)
VARIANTS = {
    "fairseq": {},
    "espnet": {"sinusoids": interleaved, "scale": 4.0, "tied": False, "eps": 1e-12},
}
PADDING = torch.arange(7) >= torch.tensor([[7], [4]])  # (2, 7): of two clips of 7 and 4 frames
TARGET = torch.tensor([[392, 20, 182, 321, 27, 71, 90, 265, 131, 2], [10, 11, 22, 587, 20, 15, 17, 2, 1, 1]])
PREVIOUS = torch.tensor([[2, 392, 20, 182, 321, 27, 71, 90, 265, 131], [2, 10, 11, 22, 587, 20, 15, 17, 1, 1]])
SPOKEN = TARGET != 1
FRAMES = torch.tensor([12, 12])
by_variant = pytest.mark.parametrize("variant", VARIANTS)


def needs_reference(test):
    """Marks a test that meets the published model's numbers."""
    there = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
    return pytest.mark.weights(there(test))


def small(variant):
    return filled(Decoder(11, layers=2, dim=16, ffn=32, heads=2, **VARIANTS[variant])).eval()


def test_places_have_the_sinusoids_of_their_source():
    first, second = torch.tensor([0]), torch.tensor([1])
    slow = torch.tensor([2.0, 2e-4])
    assert torch.allclose(halves(first, 4), torch.cat([slow.sin(), slow.cos()]))
    s, c = torch.tensor([1.0, 0.01]).sin(), torch.tensor([1.0, 0.01]).cos()
    assert torch.allclose(interleaved(second, 4), torch.stack([s[0], c[0], s[1], c[1]]))
    assert interleaved(first, 4).tolist() == [[0, 1, 0, 1]]


@by_variant
@torch.no_grad()
def test_place_by_place_is_all_at_once(variant):
    """Three sentences a clip, which share its memory."""
    decoder, memory = small(variant), normal(1, (2, 7, 16))
    sentences = torch.randint(11, (2, 3, 6), generator=torch.Generator().manual_seed(2))
    sentences[:, :, 0] = 2
    whole = decoder(
        sentences.flatten(0, 1), memory.repeat_interleave(3, 0), PADDING.repeat_interleave(3, 0)
    )  # (2*3, 6, V)
    logits, reading = decoder.step(sentences[:, :1, 0], decoder.begin(memory, PADDING))
    reading = reading.keep(torch.arange(2), torch.zeros(2, 3, dtype=torch.long))
    steps = [logits.expand(2, 3, 11)]
    for place in range(1, 6):
        logits, reading = decoder.step(sentences[:, :, place], reading)
        steps.append(logits)
    assert difference(torch.stack(steps, 2).flatten(0, 1), whole) < 1e-5


@by_variant
@torch.no_grad()
def test_kept_sentences_go_on_from_their_own_past(variant):
    decoder, memory = small(variant), normal(1, (2, 7, 16))
    reading = decoder.begin(memory, PADDING).keep(torch.arange(2), torch.zeros(2, 2, dtype=torch.long))
    for tokens in ([[2, 2], [2, 2]], [[3, 4], [5, 6]]):
        _, reading = decoder.step(torch.tensor(tokens), reading)
    reading = reading.keep(torch.tensor([1]), torch.tensor([[1, 0, 1]]))  # of the second clip alone
    logits, _ = decoder.step(torch.tensor([[7, 8, 9]]), reading)
    sentences = torch.tensor([[2, 6, 7], [2, 5, 8], [2, 6, 9]])
    whole = decoder(sentences, memory[1:].expand(3, 7, 16), PADDING[1:].expand(3, 7))
    assert difference(logits[0], whole[:, -1]) < 1e-5


@by_variant
@torch.no_grad()
def test_padded_frames_and_later_tokens_do_not_matter(variant):
    decoder, memory = small(variant), normal(1, (2, 7, 16))
    previous = torch.tensor([[2, 3, 4, 5], [2, 6, 7, 8]])
    logits = decoder(previous, memory, PADDING)
    assert difference(logits, decoder(previous, memory.masked_fill(PADDING[..., None], 9.0), PADDING)) == 0
    assert difference(logits[1:], decoder(previous[1:], memory[1:, :4])) < 1e-5
    assert difference(logits[:, :2], decoder(previous[:, :2], memory, PADDING)) < 1e-5


@pytest.mark.parametrize("size, count", [("base", 160_613_608), ("large", 477_332_200)])
def test_presets_have_the_published_parameter_counts(size, count):
    with torch.device("meta"):
        reader = build_reader(preset(size, ExpertHParams), 1000)
    unused = 104 + 2004 * 256  # parts of pre-training
    assert sum(p.numel() for p in reader.parameters()) == count - unused


@pytest.fixture(scope="module")
def expert():
    with torch.device("meta"):
        reader = build_reader(ExpertHParams(), 1000)
    reader.load_state_dict(convert_expert(published("avhubert_base_s2s")), assign=True)
    return reader.eval().requires_grad_(False)


def inputs(name):
    """What the fixture's encoder is given: (audio, video, padding) of one of its passes."""
    audio, video = normal(22, (2, 104, 12)), normal(21, (2, 1, 12, 88, 88))
    padding = torch.zeros(2, 12, dtype=torch.bool)
    audio[1, :, 9:], video[1, :, 9:], padding[1, 9:] = 0, 0, True
    audio, video = audio.transpose(1, 2), video.transpose(1, 2)
    return (None, video, padding) if name == "video" else (audio, None, padding)


def smoothed(logits):
    """The published loss and its part without smoothing, both summed over the spoken tokens."""
    logs = logits[SPOKEN].log_softmax(-1)  # (18, V)
    nll, smooth, share = -logs.gather(1, TARGET[SPOKEN][:, None]).sum(), -logs.sum(), 0.1 / (logits.shape[-1] - 1)
    return (1 - 0.1 - share) * nll + share * smooth, nll


def listed(name):
    """A published state dict without its numbers."""
    entries = json.loads((REFERENCE / "keys" / f"{name}.json").read_text())["entries"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in entries}


@needs_reference
@pytest.mark.parametrize("name", ["video", "audio"])
@torch.no_grad()
def test_the_expert_scores_the_words_as_the_published_one_does(expert, name):
    arrays, (audio, video, padding) = fixture("avhubert_base_s2s"), inputs(name)
    logits = expert.decoder(PREVIOUS, expert.encoder(audio, video, padding), padding)
    worst = {"logits": difference(logits[SPOKEN], arrays[f"{name}/logits"][SPOKEN])}
    for part, value in zip(("loss", "nll"), smoothed(logits), strict=True):
        worst[part] = difference(value, arrays[f"{name}/{part}"])
    hits = (logits.argmax(-1) == TARGET)[SPOKEN].sum()
    assert max(worst.values()) < 1e-5 and hits == arrays[f"{name}/n_correct"]
    print("avhubert_base_s2s", name, {part: f"{value:.1e}" for part, value in worst.items()})


@needs_reference
def test_the_loss_of_the_expert_reaches_the_video_as_the_published_one_does(expert):
    _, video, padding = inputs("video")
    expert = copy.deepcopy(expert).double()  # in float32 some processors' convolutions are a thousandth off
    seen = video.double().transpose(1, 2).requires_grad_()  # (B, 1, T, H, W), as in the fixture
    memory = expert.encoder(video=seen.transpose(1, 2), padding=padding)
    smoothed(expert.decoder(PREVIOUS, memory, padding))[0].backward()
    worst = meets(seen.grad, fixture("avhubert_base_s2s"), "grad_video")
    print("avhubert_base_s2s grad_video", f"{worst:.1e}")


@needs_reference
@pytest.mark.parametrize("beam", [1, 5, 50])
@torch.no_grad()
def test_the_expert_reads_what_the_published_one_reads(expert, beam):
    arrays, (_, video, padding) = fixture("avhubert_base_s2s"), inputs("video")
    reading = expert.decoder.begin(expert.encoder(video=video, padding=padding), padding)
    best = [found[0] for found in beam_search(expert.decoder.step, reading, FRAMES, beam)]
    worst = 0
    for clip, hypothesis in enumerate(best):
        there = f"beam{beam}/{clip}/0"
        assert hypothesis.tokens == arrays[f"{there}/tokens"].tolist()
        worst = max(worst, difference(torch.tensor(hypothesis.score), arrays[f"{there}/score"]))
        worst = max(worst, difference(torch.tensor(hypothesis.scores), arrays[f"{there}/pos_scores"]))
    assert worst < 1e-5
    print("avhubert_base_s2s beam", beam, f"{worst:.1e}")


@needs_reference
@torch.no_grad()
def test_heard_speech_is_read_up_to_104_tokens_where_the_published_one_mistakes_filters_for_frames(expert):
    audio, _, padding = inputs("audio")
    reading = expert.decoder.begin(expert.encoder(audio, padding=padding), padding)
    best = beam_search(expert.decoder.step, reading, torch.tensor([104, 104]))[0][0]
    assert len(best.tokens) == fixture("avhubert_base_s2s")["beam5_audio_maxlen_quirk/len0"]


@needs_reference
@pytest.mark.parametrize("size, dim", [("base", 768), ("large", 1024)])
def test_published_names_and_shapes_become_ours(size, dim):
    with torch.device("meta"):
        reader = build_reader(preset(size, ExpertHParams), 1000)
    shapes = {name: value.shape for name, value in reader.state_dict().items()}
    assert {k: v.shape for k, v in convert_expert(listed(f"avhubert_{size}_s2s")).items()} == shapes
    shapes = {name: shape for name, shape in shapes.items() if name.startswith("encoder.")}
    shapes |= {"head.mask": (104,), "head.proj.weight": (256, dim), "head.proj.bias": (256,)}
    shapes |= {"head.embeddings": (2004, 256)}
    assert {k: v.shape for k, v in convert_pretrained(listed(f"avhubert_{size}_pretrained")).items()} == shapes
