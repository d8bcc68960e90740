"""Files that fairseq wrote are read without fairseq, tell their sizes and tokenizer, and run none of their code."""

import io
import json
import os
import pickle
import sys
import zipfile

import pytest
import torch
from fairseq_files import FINE_TUNING, PRETRAINING, SENTENCES, avhubert, foreign, weights, write
from filling import REFERENCE
from published_files import refused

from errors import InputError
from experts.lip_reader import tokenizer_of
from hparams import ExpertHParams
from models.published.avhubert import knobs_of
from models.published.fairseq import is_fairseq, read_fairseq

torch.set_num_threads(1)
by_container = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
by_config = pytest.mark.parametrize("old", [False, True], ids=["cfg", "args"])
by_stage = pytest.mark.parametrize("fine_tuned", [True, False], ids=["fine-tuned", "pre-trained"])
SIZES = {"layers": 2, "dim": 32, "ffn": 64, "heads": 4, "width": 1 / 16}
DECODER_SIZES = {"decoder_layers": 1, "decoder_ffn": 48, "decoder_heads": 2}


def needs_reference(test):
    """Marks a test that meets the published files' numbers."""
    there = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
    return pytest.mark.weights(there(test))


def complains(words, function, *given):
    """Holds that `function` refuses what it is given in one line that matches `words`."""
    with pytest.raises(InputError, match=words) as error:
        function(*given)
    assert "\n" not in str(error.value)


@by_container
@by_config
@by_stage
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_weights_come_back_as_they_were_in_float32(dtype, fine_tuned, old, zipped, tmp_path):
    state, _ = write(tmp_path / "x.pt", fine_tuned, dtype, old, zipped)
    before = set(sys.modules)
    file = read_fairseq(tmp_path / "x.pt")
    assert set(sys.modules) == before and "fairseq.data" not in before
    assert file.step == 60_000 and file.model.keys() == state.keys()
    for name, tensor in file.model.items():
        wanted = torch.float32 if state[name].is_floating_point() else torch.int64  # a count of batch norm
        assert tensor.dtype == wanted and tensor.is_contiguous() and torch.equal(tensor, state[name].to(wanted))


@by_container
@by_config
@by_stage
def test_a_file_of_fairseq_is_told_by_what_it_holds(fine_tuned, old, zipped, tmp_path):
    path = tmp_path / "generator.pth"
    write(path, fine_tuned, old=old, zipped=zipped)
    assert is_fairseq(path)
    for state in ({"model": {}}, {"cfg": {}}, {"format": 1, "reader": {}}, {"state_dict": {}, "args": None}, [1]):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        assert not is_fairseq(path)
    path.write_bytes(b"<html>")
    assert not is_fairseq(path) and not is_fairseq(tmp_path) and not is_fairseq(tmp_path / "none.pt")


@by_config
def test_a_fine_tuned_file_tells_its_knobs_as_its_pretraining_said_them(old, tmp_path):
    write(tmp_path / "x.pt", old=old)
    file = read_fairseq(tmp_path / "x.pt")
    trained = {"dropout": 0.1, "layerdrop": 0.05, "grad_mult": 0.1, "label_smoothing": 0.1}  # not as in FINE_TUNING
    assert knobs_of(file.config, file.model) == ExpertHParams(**SIZES, **DECODER_SIZES, **trained)


@by_config
def test_a_pre_trained_file_tells_its_knobs_and_has_no_tokenizer(old, tmp_path):
    write(tmp_path / "x.pt", fine_tuned=False, old=old)
    file = read_fairseq(tmp_path / "x.pt")
    assert knobs_of(file.config, file.model) == ExpertHParams(**SIZES, dropout=0.1, layerdrop=0.05, grad_mult=0.1)
    assert len(file.task["dictionaries"][0]["symbols"]) == 6
    complains("no tokenizer", tokenizer_of, file.task)


def test_omegaconf_and_a_recent_sentencepiece_make_no_difference(tmp_path):
    write(tmp_path / "x.pt")
    write(tmp_path / "recent.pt", recent=True)
    config, task = read_fairseq(tmp_path / "recent.pt")[1:3]
    assert (config, task) == read_fairseq(tmp_path / "x.pt")[1:3]
    assert config["model"]["w2v_args"]["model"] == PRETRAINING and config["model"]["w2v_args"]["criterion"]


def test_the_tokenizer_comes_out_as_it_went_in(tmp_path):
    _, tokenizer = write(tmp_path / "x.pt")
    found = tokenizer_of(read_fairseq(tmp_path / "x.pt").task)
    assert found.sha256 == tokenizer.sha256 and found.encode(SENTENCES[0]) == tokenizer.encode(SENTENCES[0])


def test_a_dictionary_with_other_ids_than_its_tokenizer_is_refused(tmp_path):
    write(tmp_path / "x.pt")
    task = read_fairseq(tmp_path / "x.pt").task
    task["target_dictionary"]["symbols"].reverse()
    complains("not the .* pieces of the tokenizer", tokenizer_of, task)


def test_a_silent_config_means_what_the_published_code_means():
    model = weights(fine_tuned=False)
    complains("encoder_layers 12, the weights say 2", knobs_of, {"model": {}}, model)
    hp = knobs_of({"model": {name: value for name, value in PRETRAINING.items() if "encoder_" in name}}, model)
    assert (hp.dropout, hp.layerdrop, hp.grad_mult) == (0.1, 0.05, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder_layers": 3}, "encoder_layers 3, the weights say 2"),
        ({"encoder_embed_dim": 8}, "encoder_embed_dim 8, the weights say 32"),
        ({"encoder_ffn_embed_dim": 32}, "encoder_ffn_embed_dim 32, the weights say 64"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads 5, which do not divide 32"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads 0"),
        ({"encoder_layers": "${model.layers}"}, "encoder_layers '.*', which is no number"),
        ({"dropout": True}, "dropout True, which is no number"),
        ({"layer_norm_first": False}, "layer_norm_first False, our networks have True"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_its_weights_or_our_networks_is_refused(change, words):
    complains(words, knobs_of, {"model": PRETRAINING | change}, weights(fine_tuned=False))
    model = FINE_TUNING | {"w2v_args": {"model": PRETRAINING | change}}
    complains(words, knobs_of, {"model": model, "criterion": None}, weights())


def test_a_decoder_that_contradicts_its_weights_is_refused():
    model = FINE_TUNING | {"w2v_args": {"model": PRETRAINING}, "decoder_layers": 6}
    complains("decoder_layers 6, the weights say 1", knobs_of, {"model": model}, weights())
    narrow = {name: torch.empty(shape) for name, shape in avhubert(True, 40, decoder=(1, 16, 48)).items()}
    model |= {"decoder_layers": 1, "decoder_embed_dim": 16}
    complains("an encoder of 32 with a decoder of 16", knobs_of, {"model": model}, narrow)
    complains("weights named fc.weight", knobs_of, {}, {"fc.weight": torch.zeros(1)})


# Files that would run code, and files that are none


class Evil:
    """Unpickled by Python's own pickle, it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@by_container
@pytest.mark.parametrize("place", ["model", "cfg", "task_state", "last_optimizer_state"])
def test_a_file_that_would_run_code_is_refused_by_name_and_runs_none(place, zipped, tmp_path):
    write(tmp_path / "x.pt", zipped=zipped, changes={place: {"a": Evil(tmp_path / "ran")}})
    refused(tmp_path / "x.pt", r"asks for (posix|os|nt)\.system, which no weights need", read_fairseq)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "torch.load", "os.path.join", "my.own.Model"])
def test_other_names_are_refused_by_name(name, tmp_path):
    path, (module, _, last) = tmp_path / "x.pt", name.rpartition(".")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02c" + f"{module}\n{last}\n".encode() + b".")
    refused(path, f"asks for {name}", read_fairseq)


def test_an_object_in_the_config_is_refused_by_name(tmp_path):
    with foreign("fairseq.tasks.Task") as (task,):
        write(tmp_path / "x.pt", config={"task": task()})
    refused(tmp_path / "x.pt", "asks for fairseq.tasks.Task", read_fairseq)


@by_container
def test_files_that_were_cut_off_are_refused(zipped, tmp_path):
    path = tmp_path / "x.pt"
    write(path, zipped=zipped)
    whole = path.read_bytes()
    for share in (0.01, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "broken or cut off", read_fairseq)


def test_files_that_are_no_fairseq_checkpoints_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "x.pt"
    refused(path, "no checkpoint at", read_fairseq)
    buffer = io.BytesIO()
    pickle.dump(Evil(tmp_path / "ran"), buffer)
    for content, words in ((b"", "is empty"), (b"<html>", "web page"), (buffer.getvalue(), "no fairseq checkpoint")):
        path.write_bytes(content)
        refused(path, words, read_fairseq)
    for state, words in (({"state_dict": {}}, "but state_dict"), ([1], "but list"), ({"model": {"a": 1}}, "but model")):
        torch.save(state, path)
        refused(path, f"holds no weights as fairseq writes them {words}", read_fairseq)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "broken", read_fairseq)
    assert not (tmp_path / "ran").exists()


@needs_reference
@pytest.mark.parametrize("name", ["avhubert_base_s2s", "avhubert_base_pretrained"])
def test_the_small_files_have_the_published_names(name):
    sizes = {"encoder": (12, 768, 3072), "decoder": (6, 768, 3072), "channels": (64, 128, 256, 512), "units": 2004}
    entries = json.loads((REFERENCE / "keys" / f"{name}.json").read_text())["entries"]
    expected = {key: tuple(shape) for key, shape, _ in entries}
    assert avhubert(name == "avhubert_base_s2s", 1000, **sizes) == expected


@needs_reference
def test_the_published_task_state_gives_the_published_ids():
    expected = json.loads((REFERENCE / "fixtures" / "task_state.json").read_text())
    file = read_fairseq(REFERENCE / "task_state.pt")
    tokenizer = tokenizer_of(file.task)
    assert not file.model and not file.config and file.step is None
    assert list(file.task) == expected["keys"] and tokenizer.symbols == expected["target_symbols"]
    assert tokenizer.sha256 == expected["sp_model_sha256"]
    for sentence, ids in expected["examples"]:
        assert tokenizer.encode(sentence, strict=False) == ids
    assert [tokenizer.encode(sentence) for sentence, _ in expected["examples"][:4]] == [
        ids for _, ids in expected["examples"][:4]
    ]
    complains("does not know '-' in 'zebra-quartz'", tokenizer.encode, expected["examples"][4][0])
