"""The code keeps its shape: imports point down, files stay short, names are documented, importing does nothing."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from structure_numbers import numbers

ROOT = Path(__file__).parents[1]
# A file imports only from levels above its own. "package.*" is every module of it that is not named elsewhere.
LEVELS = (
    "errors audio losses",
    "hparams distributed workers media.*",
    "faces.*",
    "models.*",
    "checkpoint",
    "data",
    "experts.* renderer",
    "training corpora.* talklip.stream",
    "preprocess train_expert train inference models.export",
    "evaluation.* talklip.*",
    "app",
)
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names.split()}
SCRIPTS = RANK["train"]
PATHS = {"talklip"}  # which, installed, puts the scripts on the path of its process
ROOMS = {name for name in RANK if name.endswith(".*")}  # whose files may import each other
NEVER = {"models": {"losses", "data", "argparse", "train"}, "losses": {"models", "data", "checkpoint"}}
SLOW = "torch av librosa cv2 scipy python_speech_features safetensors numpy".split()
LONGEST, LONGEST_SCRIPT, LONGEST_KNOBS = 300, 450, 700  # lines; the last of hparams.py: every knob of every stage
OF_ALL = {"training", "data", "losses"}  # one run, every sample, every loss: one idea each, as long as a script
OTHERS_FLAGS = re.compile(r"\b(pip|uv|git|pytest|ruff|torchrun|docker|apt-get|curl)\b")  # lines with their flags
PARTS = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
SOURCES = sorted(path for path in PARTS if not path.parts[0].startswith((".", "tests", "runs", "data")))
SOURCES += [path for path in PARTS if path == Path("data.py")]


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def entry(module):
    """The word of LEVELS that stands for a module, or None."""
    package = module.split(".")[0] + ".*"
    return next((name for name in (module, package) if name in RANK), None)


def has_main(module):
    """Whether a module is a script."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree_of(MODULES[module]).body)


def tree_of(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(path):
    """Every module that a file imports, at its top or inside a function; of ours by their full name."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return found


def run(*command):
    """Runs Python in a process of its own; returns what it wrote."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


SCRIPT_MODULES = [module for module in MODULES if has_main(module)]
by_file = pytest.mark.parametrize("path", SOURCES, ids=str)
by_module = pytest.mark.parametrize("module", MODULES)


@by_module
def test_imports_only_point_down(module):
    assert entry(module), f"{module} is new: say in LEVELS where it stands"
    for name in imported(MODULES[module]) & MODULES.keys():
        inside = entry(name) == entry(module) and entry(module) in ROOMS
        assert inside or RANK[entry(name)] < RANK[entry(module)], f"{module} must not import {name}"


def test_imports_make_no_circle():
    graph = {module: imported(path) & MODULES.keys() for module, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())


def test_the_tree_is_small():
    found = numbers(ROOT)
    root, levels, to_read, lines, _ = found.values()
    assert root <= 15 and levels <= 11 and to_read <= 5 and lines <= 200, found


@by_module
def test_models_know_no_losses_and_losses_no_models(module):
    names = {name.split(".")[0] for name in imported(MODULES[module])}
    assert not names & NEVER.get(entry(module).removesuffix(".*"), set())


def test_scripts_are_the_files_with_a_main():
    for module in MODULES:
        rank = RANK[entry(module)]
        assert has_main(module) == (rank == SCRIPTS) or rank > SCRIPTS, f"{module}: LEVELS and its main() disagree"


@by_file
def test_no_tricks(path):
    for node in ast.walk(tree_of(path)):
        where = f"{path}:{getattr(node, 'lineno', '')}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("sys", "path") or module_of(path) in PATHS, f"{where}: sys.path"
        if isinstance(node, ast.ImportFrom):
            assert "*" not in {alias.name for alias in node.names}, f"{where}: a star import"
            assert node.module != "sys" or "path" not in {alias.name for alias in node.names}, f"{where}: sys.path"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: a bare except"
            if {"Exception", "BaseException"} & {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}:
                assert isinstance(node.body[-1], ast.Raise), f"{where}: a broad except that goes on"


@by_file
def test_files_are_short(path):
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    module = module_of(path)
    longest = LONGEST_SCRIPT if module in SCRIPT_MODULES or module in OF_ALL else LONGEST
    longest = LONGEST_KNOBS if module == "hparams" else longest
    assert lines <= longest, f"{path} has {lines} lines: split it by noun"


def public(thing, module):
    """The public classes and functions that are defined in `thing`, a module or class: (name, object)."""
    for name, value in vars(thing).items():
        value = getattr(value, "__func__", value)  # of static and class methods
        kinds = inspect.isclass(value) or inspect.isfunction(value) or isinstance(value, property)
        if kinds and not name.startswith("_") and getattr(value, "__module__", module.__name__) == module.__name__:
            yield name, value
            if inspect.isclass(value):
                yield from ((f"{name}.{inner}", each) for inner, each in public(value, module))


@by_module
def test_every_public_name_has_a_docstring(module):
    loaded = importlib.import_module(module)
    assert loaded.__doc__, f"{module} has no docstring"
    for name, thing in public(loaded, loaded):
        owner, _, method = name.rpartition(".")
        bases = getattr(loaded, owner).__mro__[1:] if owner else ()  # `forward` may have Module's
        inherited = any(inspect.getdoc(getattr(base, method)) for base in bases if hasattr(base, method))
        assert thing.__doc__ or inherited, f"{module}.{name} has no docstring"


def test_importing_prints_nothing_and_loads_nothing_slow():
    spy = (
        "import importlib, sys\n"
        f"for name in {sorted(MODULES)!r}:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "print([name for name in ('av', 'librosa', 'python_speech_features', 'matplotlib') if name in sys.modules])"
    )
    assert run("-c", spy) == ("[]\n", "")


def test_inference_is_imported_at_once():
    spy = f"import sys, inference\nprint([name for name in {SLOW!r} if name in sys.modules])"
    assert run("-c", spy) == ("[]\n", "")


def flags_of(module, monkeypatch, capsys):
    """Every flag that a script's --help names, and that of each of its tasks."""
    monkeypatch.setenv("COLUMNS", "200")

    def told(*task):
        with pytest.raises(SystemExit) as stopped:
            importlib.import_module(module).main([*task, "--help"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    texts = [told()]
    tasks = re.search(r"\n  task\n((?:    .*\n)+)", texts[0])
    texts += [told(task) for task in re.findall(r"^    (\w+)", tasks[1], re.MULTILINE)] if tasks else []
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(texts)))


@pytest.mark.parametrize("module", SCRIPT_MODULES)
def test_every_script_has_help(module, monkeypatch, capsys):
    assert "--help" in flags_of(module, monkeypatch, capsys)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_flag_in_a_page_exists(page, monkeypatch, capsys):
    known = set().union(*(flags_of(module, monkeypatch, capsys) for module in SCRIPT_MODULES))
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        if not OTHERS_FLAGS.search(line):
            unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line)) - known
            assert not unknown, f"{page}:{number}: no script has {', '.join(sorted(unknown))}"
