"""Lip readers come out of every file that holds one, read what they see, and their errors are counted."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from fairseq_files import SENTENCES, write
from filling import REFERENCE, difference, filled, fixture, normal, published, uniform
from published_files import refused

import checkpoint
from errors import InputError
from experts.beam_search import beam_search
from experts.clusters import features
from experts.lip_reader import error_rates, export, load_reader, packed, read, tokenizer_of
from experts.tokenizer import train_tokenizer
from hparams import ExpertHParams, preset
from models import build_reader
from models.decoder import PAD
from models.published.experts import convert_conformer, convert_expert, convert_pretrained
from models.published.fairseq import read_fairseq
from train_expert import begin_with

torch.set_num_threads(1)
SMALL = {"width": 1 / 16, "layers": 1, "dim": 32, "ffn": 48, "heads": 2}
SMALL |= {"decoder_layers": 1, "decoder_ffn": 48, "decoder_heads": 2}
ROI = uniform(1, (2, 5, 1, 88, 88))
PADDING = torch.arange(5) >= torch.tensor([[5], [3]])
by_container = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def needs_reference(test):
    """Marks a test that meets the published model's numbers."""
    there = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
    return pytest.mark.weights(there(test))


def encoder_refused(path, words):
    """Holds that `load_reader` refuses a file even as an encoder."""
    refused(path, words, lambda path: load_reader(path, whole=False))


def save_run(path, hp, tokenizer=None, words=None, size=None):
    """A run's checkpoint as `TrainState.save` writes it, in numbers that 16 bits can hold; returns its network.

    size: of the network's vocabulary, where it is not to fit.
    """
    net = filled(build_reader(hp, size or len(tokenizer or words or range(4)))).eval()
    net.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in net.state_dict().items()})
    task = "finetune" if tokenizer else "words" if words else "pretrain"
    state = {"task": task, "step": 30, "best": 0.5, "words": words, "reader": net.state_dict(), "expert_optimizer": {}}
    state |= {"hparams": asdict(hp), "tokenizer": packed(tokenizer) if tokenizer else None}
    checkpoint.save(path, **state)
    return net


# Files of train_expert.py


@pytest.mark.parametrize("model", ["avhubert", "conformer"])
def test_a_run_and_its_export_read_the_same_sentences(model, tmp_path):
    hp, tokenizer = ExpertHParams(model=model, roi="lrs2", **SMALL), train_tokenizer(SENTENCES, 40)
    net = save_run(tmp_path / "best.pt", hp, tokenizer)
    export(tmp_path / "reader.safetensors", tmp_path / "best.pt")
    run, alone = load_reader(tmp_path / "best.pt"), load_reader(tmp_path / "reader.safetensors")
    assert run.hp == alone.hp == hp and run.words is None and not run.net.training
    assert run.tokenizer.sha256 == alone.tokenizer.sha256 == tokenizer.sha256
    assert (run.about["kind"], alone.about["kind"], alone.about["step"]) == ("run checkpoint", "weights", 30)
    sentences = read(run, ROI, PADDING)
    assert sentences == read(alone, ROI, PADDING) and all(sentences)
    assert torch.equal(run.net(ROI, torch.full((2, 1), 2)), net(ROI, torch.full((2, 1), 2)))


def test_words_are_named_from_a_run_and_its_export(tmp_path):
    hp, words = ExpertHParams(model="words", **SMALL | {"layers": 2}), ["again", "now", "please"]
    net = save_run(tmp_path / "best.pt", hp, words=words)
    export(tmp_path / "words.safetensors", tmp_path / "best.pt")
    for name in ("best.pt", "words.safetensors"):
        reader = load_reader(tmp_path / name)
        assert reader.words == words and reader.tokenizer is None and torch.equal(reader.net(ROI), net(ROI))
        encoder_refused(tmp_path / name, "holds no encoder but a lip reader of single words")


def test_a_pre_training_run_lends_its_encoder_and_cannot_read(tmp_path):
    net = save_run(tmp_path / "best.pt", ExpertHParams(**SMALL))
    refused(tmp_path / "best.pt", "holds no lip reader but a lip reader.s pre-trained encoder.*finetune", load_reader)
    reader = load_reader(tmp_path / "best.pt", whole=False)
    assert reader.net.decoder is None and reader.tokenizer is None
    assert torch.equal(reader.net.encode(ROI), net.encode(ROI))


def test_the_mouth_roi_of_a_file_can_be_overridden(tmp_path):
    save_run(tmp_path / "best.pt", ExpertHParams(**SMALL), train_tokenizer(SENTENCES, 40))
    assert load_reader(tmp_path / "best.pt").hp.roi == "aligned"
    assert load_reader(tmp_path / "best.pt", roi="lrs2").hp.roi == "lrs2"


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    path, tokenizer, other = tmp_path / "x.pt", train_tokenizer(SENTENCES, 40), train_tokenizer(SENTENCES, 30)
    words = f"its tokenizer has {len(other)} tokens, its network {len(tokenizer)}"
    save_run(path, ExpertHParams(**SMALL), other, size=len(tokenizer))
    refused(path, words, load_reader)
    weights, _ = write(path, tokenizer=tokenizer)
    write(path, tokenizer=other, changes={"model": weights})
    refused(path, words, load_reader)


def test_files_without_a_lip_reader_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "x.pt"
    refused(path, "no checkpoint at", load_reader)
    for state, words in (
        ({"state_dict": {"face_decoder_blocks.0.weight": torch.zeros(1)}}, "weights of a Wav2Lip generator"),
        ({"format": 1, "hparams": {}, "generator": {}}, "but our checkpoint with format, hparams, generator"),
        ({"cfg": {}, "model": {"fc.weight": torch.zeros(1)}}, "no AV-HuBERT.*weights named fc.weight"),
    ):
        torch.save(state, path)
        refused(path, words, load_reader)
        encoder_refused(path, words)


# AV-HuBERT as published


@by_container
@pytest.mark.parametrize("old", [False, True], ids=["cfg", "args"])
def test_a_fine_tuned_avhubert_reads(old, zipped, tmp_path):
    weights, tokenizer = write(tmp_path / "x.pt", old=old, zipped=zipped)
    reader = load_reader(tmp_path / "x.pt")
    net = build_reader(reader.hp, len(tokenizer))
    net.load_state_dict(convert_expert(weights))
    assert torch.equal(reader.net.encode(ROI, PADDING), net.eval().encode(ROI, PADDING)) and not reader.net.training
    assert reader.hp.roi == "aligned" and load_reader(tmp_path / "x.pt", roi="lrs2").hp.roi == "lrs2"
    assert reader.tokenizer.sha256 == tokenizer.sha256 and reader.words is None
    assert (reader.about["kind"], reader.about["step"]) == ("fine-tuned AV-HuBERT", 60_000)
    assert reader.about["sha256"] == checkpoint.sha256(tmp_path / "x.pt")
    greedy = read(reader, ROI, PADDING, beam=1)
    assert greedy == read(load_reader(tmp_path / "x.pt"), ROI, PADDING, beam=1) and all(greedy)


def test_an_avhubert_can_be_exported_as_our_weights(tmp_path):
    write(tmp_path / "x.pt")
    export(tmp_path / "x.safetensors", tmp_path / "x.pt")
    theirs, ours = load_reader(tmp_path / "x.pt"), load_reader(tmp_path / "x.safetensors")
    assert ours.hp == theirs.hp and ours.tokenizer.sha256 == theirs.tokenizer.sha256 and ours.about["step"] == 60_000
    weights = ours.net.state_dict()
    assert all(torch.equal(weights[name].half(), part.half()) for name, part in theirs.net.state_dict().items())


@pytest.mark.parametrize("fine_tuned", [True, False], ids=["fine-tuned", "pre-trained"])
@torch.no_grad()
def test_an_avhubert_lends_its_encoder_to_a_run_and_its_features_to_be_clustered(fine_tuned, tmp_path):
    weights, _ = write(tmp_path / "x.pt", fine_tuned, changes={} if fine_tuned else {"task_state": None})
    reader = load_reader(tmp_path / "x.pt", whole=False)
    assert reader.net.decoder is None and reader.tokenizer is None and not reader.net.training
    found = reader.net.encoder.state_dict()
    for name, part in (convert_expert if fine_tuned else convert_pretrained)(weights).items():
        if name.startswith("encoder.") and "tracked" not in name:
            assert torch.equal(found[name.removeprefix("encoder.")], part)

    objective = SimpleNamespace(reader=build_reader(reader.hp, 11).eval())
    begin_with(objective, "finetune", tmp_path / "x.pt")
    assert torch.equal(objective.reader.encode(ROI), reader.net.encode(ROI))
    objective.reader = build_reader(replace(reader.hp, layers=1), 11)
    words = "--init .* encoder of another size"
    refused(tmp_path / "x.pt", words, lambda path: begin_with(objective, "finetune", path))
    clustered = features(reader, {"roi": ROI[0], "audio": normal(2, (5, 104))}, depth=1)
    assert clustered.shape == (5, 32)


def test_a_pre_trained_avhubert_cannot_read_and_says_so(tmp_path):
    write(tmp_path / "x.pt", fine_tuned=False)
    refused(tmp_path / "x.pt", "a pre-trained AV-HuBERT.*--init", load_reader)


def test_faults_of_an_avhubert_are_told_with_its_path(tmp_path):
    path = tmp_path / "x.pt"
    for changes, words in (
        ({"task_state": None}, "no tokenizer in its task state"),
        ({"cfg": {"model": {}}}, "encoder_layers 12, the weights say 2"),
    ):
        write(path, changes=changes)
        refused(path, words, load_reader)
    write(path, config={"dropout": 1.5})
    refused(path, "dropout 1.5", load_reader)
    weights, _ = write(path)
    weights.pop("decoder.layers.0.fc2.bias")
    write(path, changes={"model": weights})
    refused(path, "do not fit LipReader: 1 missing: decoder.blocks.0.down.bias", load_reader)


@by_container
def test_an_avhubert_that_was_cut_off_is_refused(zipped, tmp_path):
    path = tmp_path / "x.pt"
    write(path, zipped=zipped)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "broken or cut off", load_reader)


# The published numbers


@needs_reference
@torch.no_grad()
def test_the_published_expert_reads_out_of_its_file_what_it_read(tmp_path):
    path, arrays = tmp_path / "x.pt", fixture("avhubert_base_s2s")
    sizes = {"layers": 12, "embed_dim": 768, "ffn_embed_dim": 3072, "attention_heads": 12}
    config = {f"encoder_{name}": size for name, size in sizes.items()}
    config |= {f"decoder_{name}": size for name, size in (sizes | {"layers": 6, "attention_heads": 4}).items()}
    tokenizer = tokenizer_of(read_fairseq(REFERENCE / "task_state.pt").task)
    write(path, config=config, tokenizer=tokenizer, changes={"model": published("avhubert_base_s2s")})
    reader = load_reader(path)
    path.unlink()  # 640 MB
    assert reader.hp == ExpertHParams()

    video, padding = normal(21, (2, 1, 12, 88, 88)).transpose(1, 2), torch.zeros(2, 12, dtype=torch.bool)
    video[1, 9:], padding[1, 9:] = 0, True
    previous = torch.from_numpy(arrays["prev_output_tokens"])
    memory = reader.net.encoder(video=video, padding=padding)
    spoken, logits = arrays["target"] != PAD, reader.net.decoder(previous, memory, padding)
    worst = difference(logits[spoken], arrays["video/logits"][spoken])
    print("avhubert_base_s2s from its file", f"{worst:.1e}")
    assert worst < 1e-5
    state = reader.net.decoder.begin(memory, padding)
    for clip, found in enumerate(beam_search(reader.net.decoder.step, state, torch.tensor([12, 12]), beam=5)):
        assert reader.tokenizer.decode(found[0].tokens) == str(arrays[f"beam5/{clip}/text"])
    mean, deviation = reader.net.normal
    assert read(reader, video[:1] * deviation + mean) == [str(arrays["beam5/0/text"])]


@needs_reference
@torch.no_grad()
def test_the_published_conformer_lends_its_encoder(tmp_path):
    weights = published("conformer_observer2")
    torch.save(weights, tmp_path / "x.pth")
    reader = load_reader(tmp_path / "x.pth", whole=False)
    found, expected = reader.net.encoder.state_dict(), convert_conformer(weights)
    assert reader.hp == preset("conformer", ExpertHParams) and reader.net.normal == (0.4161, 0.1688)
    assert all(torch.equal(part, expected[f"encoder.{name}"]) for name, part in found.items() if "tracked" not in name)


def test_the_published_conformer_cannot_read_and_says_why(tmp_path):
    torch.save({"ctc.ctc_lo.weight": torch.zeros(40, 8)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "Conformer lip reader, whose table of characters is not in the file", load_reader)
    encoder_refused(tmp_path / "x.pth", "do not fit LipReader: .* missing")


# Reading and its errors


def test_a_clip_that_is_too_long_is_refused(tmp_path):
    save_run(tmp_path / "x.pt", ExpertHParams(longest=4, **SMALL), train_tokenizer(SENTENCES, 40))
    with pytest.raises(InputError, match="a clip of 5 frames: this lip reader takes 4 at most"):
        read(load_reader(tmp_path / "x.pt"), ROI)


@pytest.mark.parametrize(
    ("references", "hypotheses", "wer", "cer"),
    [
        (["bin blue at f"], ["Bin  BLUE at f "], 0, 0),
        (["bin blue at f"], [""], 1, 1),
        (["bin blue", "now"], ["", ""], 1, 1),
        (["bin blue at f", "now"], ["bin red at f", "now"], 1 / 5, 4 / 16),  # of the corpus, not of each sentence
        (["now"], ["not right now"], 2, 10 / 3),
    ],
)
def test_error_rates_are_all_errors_by_all_words(references, hypotheses, wer, cer):
    rates = error_rates(references, hypotheses)
    assert list(rates) == ["wer", "cer"] and rates == pytest.approx({"wer": wer, "cer": cer})


def test_a_transcript_without_words_has_no_error_rate():
    with pytest.raises(InputError, match="transcript 2 of 3 has no words"):
        error_rates(["now", " ", "soon"], ["now", "now", "soon"])
