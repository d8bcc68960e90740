"""Files that fairseq wrote are read without fairseq, tell their sizes and tokenizer, and run none of their code."""

import io
import json
import os
import pickle
import sys
import zipfile

import pytest
import torch
from fairseq_files import FINE_TUNING, PRETRAINING, SENTENCES, foreign, weights, write
from filling import REFERENCE
from published_files import refused

from fairseq import read_fairseq, sizes_of, tokenizer_of
from hparams import InputError

torch.set_num_threads(1)
by_container = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
by_config = pytest.mark.parametrize("old", [False, True], ids=["cfg", "args"])
by_stage = pytest.mark.parametrize("fine_tuned", [True, False], ids=["fine-tuned", "pre-trained"])
ENCODER_SIZES = {"encoder_layers": 2, "encoder_dim": 16, "encoder_ffn": 32, "encoder_heads": 4}
DECODER_SIZES = {"decoder_layers": 1, "decoder_dim": 16, "decoder_ffn": 24, "decoder_heads": 2}


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
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and torch.equal(tensor, state[name].float())


@by_config
def test_a_fine_tuned_file_tells_its_sizes_as_its_pretraining_said_them(old, tmp_path):
    _, tokenizer = write(tmp_path / "x.pt", old=old)
    file = read_fairseq(tmp_path / "x.pt")
    sizes = sizes_of(file.config, file.model)
    assert sizes.items() >= (ENCODER_SIZES | DECODER_SIZES | {"tokens": len(tokenizer)}).items()
    assert (sizes["dropout"], sizes["layerdrop"], sizes["grad_mult"]) == (0.1, 0.05, 0.1)  # not those of FINE_TUNING
    assert (sizes["input_dropout"], sizes["attention_dropout"], sizes["activation_dropout"]) == (0.1, 0.1, 0.0)
    assert (sizes["decoder_dropout"], sizes["label_smoothing"]) == (0.1, 0.1)


@by_config
def test_a_pre_trained_file_tells_its_sizes_and_has_no_tokenizer(old, tmp_path):
    write(tmp_path / "x.pt", fine_tuned=False, old=old)
    file = read_fairseq(tmp_path / "x.pt")
    sizes = sizes_of(file.config, file.model)
    assert sizes.items() >= ENCODER_SIZES.items() and not sizes.keys() & DECODER_SIZES.keys()
    assert len(file.task["dictionaries"][0]["symbols"]) == 6
    complains("no tokenizer.*task_state.pt", tokenizer_of, file.task)


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
    complains("encoder_layers 12, the weights say 2", sizes_of, {"model": {}}, model)
    sizes = sizes_of({"model": {name: value for name, value in PRETRAINING.items() if "encoder_" in name}}, model)
    assert (sizes["dropout"], sizes["input_dropout"], sizes["grad_mult"]) == (0.1, 0.0, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder_layers": 3}, "encoder_layers 3, the weights say 2"),
        ({"encoder_embed_dim": 8}, "encoder_dim 8, the weights say 16"),
        ({"encoder_ffn_embed_dim": 64}, "encoder_ffn 64, the weights say 32"),
        ({"encoder_attention_heads": 5}, "encoder_heads 5, which do not divide 16"),
        ({"encoder_attention_heads": 0}, "encoder_heads 0"),
        ({"encoder_layers": "${model.layers}"}, "encoder_layers '.*', which is no number"),
        ({"dropout": True}, "dropout True, which is no number"),
        ({"layer_norm_first": False}, "layer_norm_first False, our networks have True"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_its_weights_or_our_networks_is_refused(change, words):
    complains(words, sizes_of, {"model": PRETRAINING | change}, weights(fine_tuned=False))
    model = FINE_TUNING | {"w2v_args": {"model": PRETRAINING | change}}
    complains(words, sizes_of, {"model": model, "criterion": None}, weights())


def test_a_decoder_that_contradicts_its_weights_is_refused():
    model = FINE_TUNING | {"w2v_args": {"model": PRETRAINING}, "decoder_layers": 6}
    complains("decoder_layers 6, the weights say 1", sizes_of, {"model": model}, weights())
    complains("weights named fc.weight", sizes_of, {}, {"fc.weight": torch.zeros(1)})


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


@pytest.mark.weights
@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
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
