"""Generators as ONNX: the solver that ONNX lacks, and networks that say the same in onnxruntime."""

import sys
from importlib.util import find_spec

import pytest
import torch
from filling import filled, normal
from portraits import NARROW, WEIGHTS, export_narrow
from warp_inputs import net

from hparams import HParams
from models import build_generator, export

with_onnx = pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxruntime"))), reason="needs onnx and onnxruntime")
NEAR = 1e-3


def test_without_the_packages_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export.main(["--out", str(tmp_path)]) == 1
    assert export.MISSING in capsys.readouterr().err


def test_a_generator_without_a_stated_interface_is_refused(tmp_path, capsys):
    pytest.importorskip("onnx")
    weights = export_narrow(tmp_path / "w.safetensors", **WEIGHTS["cals"])
    assert export.main(["--checkpoint_path", str(weights), "--out", str(tmp_path / "onnx")]) == 1
    assert "cannot be exported" in capsys.readouterr().err


@with_onnx
def test_talklip_says_the_same_in_onnxruntime_for_any_number_of_frames(tmp_path):
    hp = HParams(**NARROW)
    for part in export.parts_of(filled(build_generator(hp)).eval(), hp):
        path = tmp_path / f"{part.name}.onnx"
        export.write(part, path)
        assert export.compared(part, path)[0] < NEAR
        for name, (axis, _) in part.dynamic.items():
            part.inputs[name] = torch.cat([part.inputs[name]] * 2, axis)
        assert export.compared(part, path)[0] < NEAR


@with_onnx
def test_what_a_warp_hears_with_says_the_same_in_onnxruntime_for_any_number_of_frames(tmp_path):
    part = export.Part(
        "speech", export.Call(net(), "encode_audio"), {"audio": normal(1, (1, 20, 768))}, ("speech",), export.FRAMES
    )
    export.write(part, tmp_path / "speech.onnx")
    part.inputs["audio"] = normal(2, (1, 33, 768))
    assert export.compared(part, tmp_path / "speech.onnx")[0] < NEAR


@with_onnx
def test_the_layers_of_a_warp_are_the_same_in_onnxruntime(tmp_path):
    part = export.warped_part(net(), 2, 128, count=3)
    export.write(part, tmp_path / "faces.onnx")
    assert export.compared(part, tmp_path / "faces.onnx")[0] < NEAR
