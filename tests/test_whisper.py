"""Whisper's encoder: its log-mel, features of sound of any length, the weights at hand, CTranslate2's file."""

import struct

import numpy as np
import pytest
import torch
from conftest import buzz
from filling import difference, fill_tensor, filled
from make_whisper import GOLDEN, golden

import audio
import checkpoint
from errors import InputError
from models.published.ctranslate2 import TYPES, convert_whisper, read_ctranslate2
from models.whisper import Sizes, WhisperEncoder, embed

SMALL = Sizes(layers=2, dim=16, heads=2)


@pytest.fixture(scope="module")
def encoder():
    """The encoder of weights/."""
    return checkpoint.load_whisper()[0]


def noise(seconds, level=3000):
    """White noise, int16 at 16 kHz."""
    return np.random.default_rng(0).normal(0, level, round(seconds * audio.RATE)).astype(np.int16)


def mel_by_hand(wav):
    """Whisper's log-mel from its definition, in float64: windows, Fourier sums, triangles on Slaney's scale."""
    wav = np.pad(wav / 32768, 200, mode="reflect")
    steps = (len(wav) - 400) // 160
    frames = np.stack([wav[160 * k : 160 * k + 400] for k in range(steps)])
    frames = frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    waves = np.exp(-2j * np.pi * np.outer(np.arange(400), np.arange(201)) / 400)
    power = np.abs(frames @ waves) ** 2  # (steps, 201)

    def hz(pitch):  # 200/3 Hz for each unit up to 1 kHz, above it 27 units for a factor of 6.4
        return np.where(pitch < 15, pitch * 200 / 3, 1000 * 6.4 ** ((pitch - 15) / 27))

    edges = hz(np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82))
    low, peak, high = (edges[i : i + 80, None] for i in range(3))
    bins = np.arange(201) * 40
    bank = np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))) * 2 / (high - low)
    level = np.log10(np.maximum(1e-10, bank @ power.T))
    return (np.maximum(level, level.max() - 8) + 4) / 4


@pytest.mark.parametrize("wav", [buzz(1.3), noise(0.5), buzz(0.4)[:6001]], ids=["buzz", "noise", "odd length"])
def test_the_mel_is_what_its_definition_says(wav):
    mel = audio.whisper_mel(wav)
    assert mel.shape == (80, len(wav) // 160) and mel.dtype == np.float32
    np.testing.assert_allclose(mel, mel_by_hand(wav), atol=1e-4)


def test_the_mel_keeps_eighty_decibels():
    mel = audio.whisper_mel(np.concatenate([buzz(0.5), np.zeros(8000, np.int16)]))
    assert mel.max() - mel.min() == pytest.approx(2, abs=1e-6)


def test_it_has_the_published_size():
    """Table 1 says 39 M for all of the tiny model; its encoder is 7.6 M of them."""
    with torch.device("meta"):
        assert sum(p.numel() for p in WhisperEncoder().parameters()) == 7_633_920


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_two_steps_of_mel_are_one_row(steps):
    assert WhisperEncoder(SMALL)(torch.zeros(2, 80, steps)).shape == (2, -(-steps // 2), 16)


def test_places_are_sines_then_cosines_counted_from_0():
    net = WhisperEncoder(Sizes(layers=0, dim=16, heads=2))
    for name, value in net.named_parameters():
        value.data.fill_(1.0 if name == "norm.weight" else 0.0)
    rates = 10_000 ** (-np.arange(8) / 7)
    angles = np.arange(50)[:, None] * rates
    wanted = torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], 1)).float()
    wanted = torch.nn.functional.layer_norm(wanted, (16,))
    torch.testing.assert_close(net(torch.zeros(1, 80, 100))[0], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321, 6400, 32_000, 32_001, 50_000])
def test_sound_of_any_length_has_a_row_for_each_20_ms(samples):
    rows = embed(filled(WhisperEncoder(SMALL)).eval(), buzz(4)[:samples])
    assert rows.shape == (max(1, -(-samples // 320)), 16) and rows.isfinite().all()


def test_sound_that_fits_a_window_is_embedded_at_once():
    net, wav = filled(WhisperEncoder(SMALL)).eval(), buzz(1.5)
    with torch.inference_mode():
        whole = net(torch.from_numpy(audio.whisper_mel(wav))[None])[0]
    torch.testing.assert_close(embed(net, wav, window_s=2), whole)


def test_a_row_hears_half_a_window_and_no_more_than_one(encoder):
    """What is changed further away than a window leaves it as it was; so long sound may be joined of parts."""
    wav = noise(5)
    changed = wav.copy()
    changed[: 2 * audio.RATE] = buzz(2)
    before, after = embed(encoder, wav, window_s=1), embed(encoder, changed, window_s=1)
    assert torch.equal(before[150:], after[150:])
    assert not torch.allclose(before[105], after[105], atol=0.05)


def test_long_sound_is_short_sound_where_windows_overlap(encoder):
    """Rows of an excerpt that begins with a window are those of the whole, but for the rows near its ends."""
    wav = buzz(6)
    whole, part = embed(encoder, wav, window_s=2), embed(encoder, wav[2 * audio.RATE : 5 * audio.RATE], window_s=2)
    torch.testing.assert_close(part[50:100], whole[150:200], atol=1e-3, rtol=0)


def test_there_are_no_seams(encoder):
    """Where windows begin and end, rows step little further than elsewhere. Cut there they would, five times as far."""
    t = np.arange(12 * audio.RATE) / audio.RATE
    wav = (8000 * np.sin(2 * np.pi * (200 * t + 20 * t**2))).astype(np.int16)  # a gliding tone
    steps = embed(encoder, wav, window_s=1).diff(dim=0).square().mean(1).sqrt()[50:-50]
    assert steps[24::25].mean() < 3 * steps.mean()


@pytest.mark.parametrize("level", [0, 1, 30])
def test_silence_gives_finite_features(encoder, level):
    rows = embed(encoder, noise(2.5, level))
    assert rows.isfinite().all() and rows.abs().max() < 30


def test_features_equal_the_golden_ones(encoder):
    with np.load(GOLDEN) as stored:
        for name, value in golden(encoder).items():
            np.testing.assert_allclose(value, stored[name], atol=2e-3, err_msg=name)


def test_the_weights_say_what_they_are():
    encoder, sizes, about = checkpoint.load_whisper()
    assert sizes == Sizes() and not encoder.training and about["licence"].startswith("MIT")
    assert about["source_sha256"] == "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def test_other_weights_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="holds no encoder of Whisper but our checkpoint|but .*generator"):
        checkpoint.load_whisper(checkpoint.WEIGHTS["generator"])
    with pytest.raises(InputError, match="no generator but the encoder of Whisper"):
        checkpoint.load_generator(checkpoint.WEIGHTS["whisper"])


@pytest.mark.parametrize("fps", [25, 30, 24000 / 1001])
def test_a_frame_finds_its_row_by_time(fps):
    times = np.arange(60) / fps
    rows = audio.rows_at(times, 1000, audio.WHISPER_RATE)
    assert np.all(rows / 50 <= times + 1e-6) and np.all(times - rows / 50 < 1 / 50)
    assert audio.rows_at([100.0], 7, audio.WHISPER_RATE) == 6


def ct2_file(path, variables, version=6):
    """Writes variables (name: numpy array) as CTranslate2 does."""

    def name(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    codes = {kind: code for code, kind in TYPES.items()}
    parts = [struct.pack("<I", version), name("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for label, value in variables.items():
        parts += [name(label), struct.pack("<B", value.ndim), struct.pack(f"<{value.ndim}I", *value.shape)]
        parts += [struct.pack("<BI", codes[value.dtype.name], value.nbytes), value.tobytes()]
    path.write_bytes(b"".join(parts) + struct.pack("<I", 0))
    return path


def published(dtype="float16"):
    """The encoder of a small Whisper under CTranslate2's names."""
    shapes = {"conv1/weight": (16, 80, 3), "conv1/bias": (16,), "conv2/weight": (16, 16, 3), "conv2/bias": (16,)}
    linears = {"self_attention/linear_0": (48, 16), "self_attention/linear_1": (16, 16)}
    linears |= {"ffn/linear_0": (64, 16), "ffn/linear_1": (16, 64)}
    for block in ("layer_0", "layer_1"):
        for part, shape in linears.items():
            shapes |= {f"{block}/{part}/weight": shape, f"{block}/{part}/bias": shape[:1]}
        for part in ("self_attention", "ffn"):
            shapes |= {f"{block}/{part}/layer_norm/{end}": (16,) for end in ("gamma", "beta")}
    shapes |= {"layer_norm/gamma": (16,), "layer_norm/beta": (16,), "position_encodings/encodings": (1500, 16)}
    variables = {f"encoder/{name}": fill_tensor(name, shape).numpy().astype(dtype) for name, shape in shapes.items()}
    return variables | {"encoder/num_heads": np.array(2, np.int16), "decoder/x": np.zeros(3, np.int32)}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_ctranslate2_file_becomes_our_encoder(tmp_path, dtype):
    variables = published(dtype)
    kind, found = read_ctranslate2(ct2_file(tmp_path / "model.bin", variables))
    assert kind == "WhisperSpec" and found.keys() == variables.keys()
    weights, sizes = convert_whisper(found)
    assert sizes == SMALL
    with torch.device("meta"):
        net = WhisperEncoder(sizes)
    net = checkpoint.fill("model.bin", net, weights)
    wanted = torch.from_numpy(variables["encoder/layer_1/ffn/linear_0/weight"]).float()
    assert torch.equal(net.blocks[1].up.weight, wanted)
    checkpoint.export(tmp_path / "x.safetensors", net, sizes, network="whisper")
    again = checkpoint.load_whisper(tmp_path / "x.safetensors")[0]
    assert difference(embed(again, buzz(1)), embed(net, buzz(1))) < 0.02


def test_faults_of_a_ctranslate2_file_are_one_line(tmp_path):
    good = ct2_file(tmp_path / "model.bin", published()).read_bytes()
    odd = good.replace(b"conv1/weight\0\x03", b"conv1/weight\0\x02")
    faults = {"cut": (good[:5000], "is cut off"), "odd": (odd, "not one of"), "text": (b"hello " * 9, "not a CTrans")}
    for name, (data, words) in faults.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=words) as error:
            read_ctranslate2(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no encoder of Whisper"):
        convert_whisper({"decoder/x": torch.zeros(1)})
    eighths = {name: torch.from_numpy(value) for name, value in published().items()}
    eighths["encoder/conv1/weight"] = eighths["encoder/conv1/weight"].to(torch.int8)
    with pytest.raises(InputError, match="quantised"):
        convert_whisper(eighths)
