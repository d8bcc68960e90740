"""A face that talks while its sound comes in: what a frame hears, what comes out, and how it ends."""

import io
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import buzz
from portraits import NARROW, WEIGHTS, export_narrow, head
from warp_inputs import D, K

import audio
import inference
from media.sound import read_audio
from media.video import read_frames
from talklip import InputError, LipSync

WARP = {"model": "warp", "speech": "whisper", "face_size": 128, "audio_dim": D, "audio_heads": 4}
WARP |= {"references": K, "width": 1 / 8}
KINDS = {"talklip_g": NARROW, "wav2lip": WEIGHTS["wav2lip"], "cals": WEIGHTS["cals"], "warp": WARP}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that gives the `LipSync` of a kind, made once."""
    folder, kept = tmp_path_factory.mktemp("weights"), {}

    def get(kind):
        if kind not in kept:
            kept[kind] = LipSync(export_narrow(folder / f"{kind}.safetensors", **KINDS[kind]))
        return kept[kind]

    return get


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("face") / "a.png"
    cv2.imwrite(str(path), head()[..., ::-1])
    return path


def blocks(wav, size=1000):
    return [wav[i : i + size] for i in range(0, len(wav), size)]


def frames_of(stream):
    return np.stack([frame for frame, _ in stream])


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_depends_on_no_sound_beyond_its_look_ahead(made, picture, kind):
    wav, ahead_s, same_s = buzz(0.6), 0.2, 0.4
    other = wav.copy()
    other[round(same_s * audio.RATE) :] = 0
    one, two = (frames_of(made(kind).stream(picture, blocks(each), ahead_s)) for each in (wav, other))
    alike = [np.array_equal(a, b) for a, b in zip(one, two, strict=True)]
    bound = round((same_s - ahead_s) * 25)  # the last frame whose look-ahead ends there
    assert all(alike[: bound + 1]) and not all(alike)
    assert np.ptp(one.astype(int), axis=0).max() > 0, "it moves"


def test_frames_come_with_their_sound_however_it_comes_in(made, picture):
    wav, draw = buzz(0.81), made("wav2lip")
    small, large = (list(draw.stream(picture, blocks(wav, size))) for size in (333, 16_000))
    for pairs in (small, large):
        assert len(pairs) == 20 and {len(samples) for _, samples in pairs} == {640}
        assert np.array_equal(np.concatenate([samples for _, samples in pairs]), wav[: 20 * 640])
    assert np.array_equal(frames_of(small), frames_of(large))


def test_the_first_frame_comes_as_soon_as_its_look_ahead_is_there(made, picture):
    taken = []
    stream = made("wav2lip").stream(picture, (taken.append(len(each)) or each for each in blocks(buzz(2), 160)), 0.3)
    next(stream)
    assert sum(taken) == 0.3 * audio.RATE


def test_a_local_encoder_makes_what_it_makes_offline(made, swaying_clip):
    wav, draw = buzz(2.6), made("wav2lip")  # more than is heard at once, and than the video lasts
    streamed = frames_of(draw.stream(swaying_clip, blocks(wav), 0.4))
    offline = draw(swaying_clip, wav).frames
    assert np.abs(streamed.astype(int) - offline).max() <= 2


def test_no_sound_is_told(made, picture):
    with pytest.raises(InputError, match="no sound came in"):
        list(made("wav2lip").stream(picture, []))
    with pytest.raises(InputError, match="--live 3.0: must be between"):
        list(made("wav2lip").stream(picture, blocks(buzz(0.4)), 3.0))


def test_a_stream_leaves_a_core_until_it_ends(made, picture, monkeypatch):
    given = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1])
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    first, second = (made("wav2lip").stream(picture, blocks(buzz(0.4))) for _ in range(2))
    next(first), next(second)
    assert given[-1] == 2
    first.close(), second.close()
    assert given[-1] == 4
    given.append(1)
    next(made("wav2lip").stream(picture, blocks(buzz(0.4))))
    assert given[-1] == 1


@pytest.fixture
def live(made, picture, monkeypatch, tmp_path):
    """A function that runs --live on bytes from standard input; returns its exit code and the place of the result."""

    def run(source, *more):
        stdin = type("Stdin", (), {"buffer": source, "isatty": lambda self: False})()
        monkeypatch.setattr(sys, "stdin", stdin)
        words = ["--face", picture, "--live", "--checkpoint_path", made("wav2lip").path, "--quiet", *more]
        return inference.main([*map(str, words), "--outfile", str(tmp_path / "a.ts")]), tmp_path / "a.ts"

    return run


def test_the_command_writes_a_transport_stream(live, capsys):
    code, path = live(io.BytesIO(buzz(1).tobytes()), "--label")
    assert code == 0 and len(list(read_frames(path))) == 25
    assert np.corrcoef(read_audio(path)[:15_000], buzz(1)[:15_000])[0, 1] > 0.9
    said = capsys.readouterr()
    assert said.out == "" and "25 frames, 1.00 s; its sound ended; delay 0.40 s of look-ahead" in said.err
    assert live(io.BytesIO(buzz(1).tobytes()))[0] == 1, "what is there is not replaced"
    assert "cannot be written" in capsys.readouterr().err


def test_empty_input_is_one_line_and_leaves_nothing(live, capsys):
    code, path = live(io.BytesIO())
    assert code == 1 and not path.exists()
    assert capsys.readouterr().err == "inference.py: no sound came in: send 16-bit mono at 16 kHz\n"


def test_ctrl_c_ends_it_with_what_is_made(live, capsys):
    class Stopped(io.BytesIO):
        def read1(self, size=-1):
            if not (data := super().read1(size)):
                raise KeyboardInterrupt
            return data

    code, path = live(Stopped(buzz(1).tobytes()))
    assert code == 0 and len(list(read_frames(path))) == 20
    assert "20 frames, 0.80 s; stopped" in capsys.readouterr().err


def test_a_closed_pipe_ends_it(live, capsys, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("talklip.stream.TransportWriter.write", closed)
    code, path = live(io.BytesIO(buzz(0.6).tobytes()))
    assert code == 0 and "nobody reads it any more" in capsys.readouterr().err


def test_flags_that_do_not_fit_are_told(picture, capsys):
    with pytest.raises(SystemExit):
        inference.main(["--face", str(picture), "--audio", "a.wav", "--live"])
    assert "--live hears standard input" in capsys.readouterr().err
