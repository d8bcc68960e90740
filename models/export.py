"""Writes what inference runs of a generator as ONNX: its networks, for onnxruntime or any other engine.

python -m models.export --out onnx
python -m models.export --checkpoint_path weights/talklip_compact.safetensors --out onnx --compare
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import checkpoint
from audio import WHISPER_RATE
from errors import InputError, exit_code
from faces.landmarks import JAW
from faces.shape import NOSE, POINTS
from hparams import WEIGHTS
from media.files import make_folder, replacing
from models.layers import fold_norms
from models.warp import INNER, LIPS, OUTER, Layers
from models.whisper import PAIR, WINDOW_S

OPSET, BATCH = 17, 16  # faces at once, as inference.py's --batch_size
MISSING = "the packages are missing: pip install onnx onnxruntime, as in requirements-extra.txt"
FRAMES = {"audio": (1, "frames")}  # axes of any size of what embeds a clip's speech
TIMES = 10  # runs of each engine that are timed; the shortest is told


class Part(NamedTuple):
    """A network of a generator, as one file.

    inputs: {name: an example}.  dynamic: {name: (its axis that may have any size, the name of that)}.
    """

    name: str
    net: nn.Module
    inputs: dict
    outputs: tuple
    dynamic: dict


class Call(nn.Module):
    """A method of a network as a network, in eval mode as it is: the exporter puts back the mode of the whole."""

    def __init__(self, net, method):
        super().__init__()
        self.net, self.method = net, method
        self.train(net.training)

    def forward(self, *inputs):
        """What the method says."""
        found = getattr(self.net, self.method)(*inputs)
        return tuple(found) if isinstance(found, tuple) else found


def parts_of(generator, hp):
    """The `Part`s that inference runs, in order. Raises InputError for a generator that it has no parts of."""
    if hp.model not in ("warp", "talklip", "wav2lip") or hp.speech not in ("global", "whisper", "local"):
        raise InputError(f"a generator of the kind {hp.model} with {hp.speech} speech cannot be exported")
    found = []
    if hp.speech == "whisper":
        whisper, sizes, _ = checkpoint.load_whisper()
        mel = torch.randn(1, sizes.mels, 2 * WINDOW_S * WHISPER_RATE)
        found.append(Part("whisper", whisper, {"mel": mel}, ("rows",), {}))
    shape = {"whisper": (PAIR,), "global": (104,), "local": (1, 80, 16)}[hp.speech]
    audio = {"audio": torch.randn(1, 75, *shape)}
    found.append(Part("speech", Call(generator, "encode_audio"), audio, ("speech",), FRAMES))
    if hp.model == "warp":
        return [*found, warped_part(generator, hp.references, hp.face_size)]
    inputs = {
        "face": torch.rand(1, 2, 6, hp.face_size, hp.face_size),
        "speech": torch.randn(1, 2, generator.speech_size),
    }
    faces = dict.fromkeys(inputs, (1, "faces"))
    return [*found, Part("faces", Call(generator, "generate"), inputs, ("faces",), faces)]


def warped_part(generator, references, px, count=BATCH):
    """The `Part` that draws of a `ReferenceWarp`: its layers, which `faces.blend.composed` puts together.

    references: how many it takes.  px: the side of its crops.  count: faces at once; the exporter writes it down.
    """
    points = drawn_points(count, references)
    inputs = {"face": torch.rand(count, 3 + 3 * references, px, px), "points": points}
    inputs |= {"resting": points[:, 0, :LIPS].clone(), "turns": 0.3 * torch.eye(2).repeat(count, 1, 1)}
    inputs |= {"speech": torch.randn(count, generator.speech_size)}
    return Part("faces", Call(generator, "layers"), inputs, Layers._fields, {})


def drawn_points(count, references):
    """Points of some faces and their references, as `ReferenceWarp.layers` takes them: (N, 1 + K, P, 2)."""

    def ring(count, x, y, turns=1.0):
        angle = 2 * torch.pi * turns * torch.arange(count) / (count if turns == 1 else count - 1)
        return 0.5 + torch.stack([x * angle.cos(), 0.15 + y * angle.sin()], 1)

    lips = ring(OUTER.stop - OUTER.start, 0.14, 0.07), ring(INNER.stop - INNER.start, 0.1, 0.03)
    nose = torch.stack([torch.linspace(0.44, 0.56, len(NOSE)), torch.full((len(NOSE),), 0.5)], 1)
    around = ring(len(POINTS) - LIPS - len(JAW) - len(NOSE), 0.4, 0.45)
    points = torch.cat([*lips, ring(len(JAW), 0.35, 0.3, 0.5), nose, around])
    return points + 0.01 * torch.randn(count, 1 + references, *points.shape)


def solve(g, system, wished, left):
    """The nodes that solve linear systems (N, P, P) for (N, P, Q), of which ONNX has none: in the place of torch's.

    Gauss and Jordan's elimination of the normal equations: these need no pivots, and what they lose, the square of the
    condition, is nothing that one sees in the 64 bits that the splines have. P is known: the points of a face and 3.
    """

    def number(value):
        return g.op("Constant", value_t=torch.tensor([value]))

    def part(values, axis, k, stop):
        return g.op("Slice", values, number(k), number(stop), number(axis))

    turned, units = transposed(g, system), torch.eye(len(POINTS) + 3, dtype=torch.float64)
    both = g.op("MatMul", turned, system), g.op("MatMul", turned, wished)
    whole = g.op("Concat", *both, axis_i=2)  # (N, P, P + Q)
    for k, unit in enumerate(units):
        row = part(whole, 1, k, k + 1)
        row = g.op("Div", row, part(row, 2, k, k + 1))
        column = g.op("Sub", part(whole, 2, k, k + 1), g.op("Constant", value_t=unit[:, None]))
        whole = g.op("Sub", whole, g.op("Mul", column, row))
    return part(whole, 2, len(units), 1 << 31)


def transposed(g, values):
    """The nodes of `values.mT`, which torch's exporter does not know either. values: (N, P, Q)."""
    return g.op("Transpose", values, perm_i=[0, 2, 1])


def write(part, path):
    """Writes a part as ONNX.

    By torch's older exporter: the newer one unrolls a recurrent network over as many frames as its example has.
    """
    for name, nodes in {"aten::linalg_solve": solve, "aten::mT": transposed}.items():
        torch.onnx.register_custom_op_symbolic(name, nodes, OPSET)
    axes = {name: {axis: size} for name, (axis, size) in part.dynamic.items()}
    how = {"dynamo": False, "opset_version": OPSET, "dynamic_axes": axes}
    names = {"input_names": [*part.inputs], "output_names": [*part.outputs]}
    with replacing(path) as partial, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its age, and of sizes that it writes down, which tests look into
        torch.onnx.export(part.net, tuple(part.inputs.values()), str(partial), **how, **names)


def compared(part, path):
    """How a file does beside its network: (the largest difference of any output, seconds of torch, of onnxruntime)."""
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), how, providers=["CPUExecutionProvider"])
    given = {name: value.numpy() for name, value in part.inputs.items()}
    with torch.inference_mode():
        wanted = part.net(*part.inputs.values())
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        found = session.run(list(part.outputs), given)
        apart = max(float((a - torch.from_numpy(b)).abs().max()) for a, b in zip(wanted, found, strict=True))
        seconds = [
            least_seconds(work) for work in (lambda: part.net(*part.inputs.values()), lambda: session.run(None, given))
        ]
    return apart, *seconds


def least_seconds(work):
    """The least time that some work takes, of `TIMES`."""
    found = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def work(args):
    """Writes the parts of a generator, and says what they take and give."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(MISSING) from error
    torch.manual_seed(0)
    generator, hp, _ = checkpoint.load_generator(args.checkpoint_path)
    make_folder(args.out)
    for part in parts_of(fold_norms(generator), hp):
        path = args.out / f"{args.checkpoint_path.stem}_{part.name}.onnx"
        write(part, path)
        made = onnx.load(path, load_external_data=False)
        print(
            f"{path}: opset {made.opset_import[0].version}, {len(made.graph.node)} nodes, {path.stat().st_size:,} bytes"
        )
        for name, value in part.inputs.items():
            axis, size = part.dynamic.get(name, (None, None))
            sides = [size if k == axis else str(side) for k, side in enumerate(value.shape)]
            print(f"  {name} ({', '.join(sides)}) float32")
        print(f"  gives {', '.join(part.outputs)}")
        if args.compare:
            apart, torch_s, onnx_s = compared(part, path)
            print(f"  at most {apart:.1e} off torch; {1e3 * onnx_s:.1f} ms, torch {1e3 * torch_s:.1f} ms")


def main(argv=None):
    """Parses the flags and exports a generator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_path", default=WEIGHTS["generator"], type=Path, help="(default: in weights/)")
    parser.add_argument("--out", default=Path("onnx"), type=Path, help="folder to write (default: %(default)s)")
    parser.add_argument("--compare", action="store_true", help="run each part by torch and onnxruntime too")
    args = parser.parse_args(argv)
    return exit_code("models.export", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
