"""talklip COMMAND ...: each command is a script of the checkout, with all of its flags; see talklip COMMAND --help."""

import argparse
import runpy
import sys

from talklip import find_home

COMMANDS = {  # name: (module, what it does)
    "infer": ("inference", "makes a face say a sound"),
    "app": ("app", "the same on a page in a browser, of this machine alone (needs gradio)"),
    "preprocess": ("preprocess", "makes a data root of a corpus"),
    "train": ("train", "trains a generator"),
    "train-expert": ("train_expert", "trains lip readers and sync models"),
    "evaluate": ("evaluation.evaluate", "measures videos and generators"),
    "export": ("models.export", "writes a generator as ONNX (needs onnx)"),
}


def main(argv=None):
    """Runs the script of a command in this process, as `python script.py` does."""
    notes = "\n".join(f"  {name:14}{note}" for name, (_, note) in COMMANDS.items())
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": f"commands:\n{notes}"}
    parser = argparse.ArgumentParser(prog="talklip", description=__doc__, **how)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="of the script")
    args = parser.parse_args(argv)
    find_home()
    sys.argv = [args.command, *args.flags]
    runpy.run_module(COMMANDS[args.command][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
