"""Numbers of a checkout's structure: python tests/structure_numbers.py [CHECKOUT], this one by default.

Who forks the training loop reads the files that define its parts: the loop, a step, the losses and their weights, the
step size, the state, the log, the guard, the validation, the samples, the knobs.
"""

import ast
import sys
from pathlib import Path

PARTS = {  # part of the training loop: names that it has, or had
    "main": ("main",),
    "loop": ("train",),
    "step": ("train_step",),
    "losses of a step": ("generator_losses",),
    "losses": ("pixel_loss",),
    "weights of the losses": ("loss_weights",),
    "step size": ("learning_rate",),
    "state": ("TrainState", "Run"),
    "log": ("Log", "Diary"),
    "guard": ("DivergenceGuard", "Progress"),
    "validation": ("validate",),
    "samples": ("Clips",),
    "guided samples": ("GuidedClips", "Lessons"),
    "knobs": ("HParams",),
}
OF_EXPERTS = {"train_expert.py", "expert_run.py", "objectives.py", "ablation.py", "preprocess.py", "inference.py"}


def root_files(checkout):
    """The Python files at the root of a checkout."""
    return sorted(checkout.glob("*.py"))


def defined(path):
    """The names of functions and classes at the top of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def files_of_the_loop(checkout):
    """{part of the training loop: the file that defines it}; a part in two files is taken from train.py."""
    names = {path.name: defined(path) for path in root_files(checkout) if path.name not in OF_EXPERTS}
    found = {}
    for part, options in PARTS.items():
        files = [name for name, own in names.items() if own & set(options)]
        found[part] = "train.py" if "train.py" in files else files[0]
    return found


def levels(checkout):
    """How many levels tests/test_structure.py of a checkout has."""
    tree = ast.parse((checkout / "tests" / "test_structure.py").read_text(encoding="utf-8"))
    assigned = (node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "LEVELS")
    return len(ast.literal_eval(next(assigned).value))


def numbers(checkout):
    """{what: number} of a checkout."""
    read = sorted(set(files_of_the_loop(checkout).values()))
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    return {
        "Python files at the root": len(root_files(checkout)),
        "levels of imports": levels(checkout),
        f"files to read before forking the training loop ({', '.join(read)})": len(read),
        "lines of README.md": len(readme.splitlines()),
        "KB of README.md": round(len(readme.encode()) / 1000, 1),
    }


if __name__ == "__main__":
    for what, number in numbers(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])).items():
        print(f"{number:>6}  {what}")
