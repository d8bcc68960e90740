"""A page in the browser, of this machine alone, on which a face is made to say a sound: inference.py with a form.

python app.py
python app.py --max_seconds 60 --checkpoint_path weights/talklip_compact.safetensors
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path

import inference
from errors import InputError, exit_code
from media.files import make_folder
from media.kinds import is_video

MODEL = "checkpoint_path device precision".split()  # what is loaded
SERVER = [*MODEL, *"detector batch_size cache max_pixels max_seconds".split()]  # flags of all jobs
PAGE = "help face audio list preview outfile report quiet".split()  # what the page itself is there for
LIMITS = {"max_pixels": 3840 * 2160, "max_seconds": 300.0, "max_megabytes": 500}
EVERY_S, OLD_S = 600, 3600  # between two looks for files of earlier jobs; how old they become
TITLE = "Talking faces a deaf viewer could read"
CONSENT = "Do not make anyone say what they have not said without their consent. The result is marked as synthetic."
MISSING = "The page needs the package gradio: pip install gradio, as in requirements-extra.txt"


def actions():
    """The flags of inference.py: {name: argparse's action}."""
    return {action.dest: action for action in inference.flags()._actions}


def form():
    """The flags that each job chooses: {name: argparse's action}."""
    return {name: action for name, action in actions().items() if name not in SERVER + PAGE}


def is_switch(action):
    """Whether a flag is on or off."""
    return action.const is True


def shown(action):
    """The value with which a flag's field begins."""
    if isinstance(action.default, list):
        return " ".join(map(str, action.default))
    return action.default


def given(values):
    """What was changed in the fields, as arguments of `LipSync`. values: {name: what the field holds}."""
    found = {}
    for name, action in form().items():
        value = values[name]
        value = value.strip() if isinstance(value, str) else value
        if value not in ("", None, shown(action)):
            found[name] = value.split() if action.nargs == 4 else value
    return found


def plain(text, *uploads):
    """A fault in the page's words: uploads by their names, flags by those of their fields."""
    for path in filter(None, uploads):
        text = text.replace(str(path), Path(path).name)
    return re.sub(r"--(face|audio)\b ?", lambda flag: {"face": "Face: ", "audio": "Sound: "}[flag[1]], text)


class Bar:
    """The progress of a job on the page, in place of `workers.progress_bar`."""

    def __init__(self, tell, total, unit, desc="", **_):
        self.tell, self.total, self.unit, self.desc, self.n = tell, total, unit, desc, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def set_description(self, desc):
        """What is being done."""
        self.desc = desc

    def update(self, n=1):
        """Tells that n more are done."""
        self.n += n
        self.tell((self.n, self.total), desc=self.desc, unit=self.unit)


class Jobs:
    """What the page does with what it is given; one after the other, with one model.

    draw: a `LipSync`.  limits: flags of all jobs, {name: value}.  folder: for files.
    """

    def __init__(self, draw, limits, folder):
        self.draw, self.limits, self.folder = draw, limits, folder

    def look(self, face):
        """A picture with the numbers of all faces, its path, and how many there are."""
        from media.video import check_pixels

        check_pixels(Path(face), self.limits["max_pixels"])
        sheet = self.folder / f"{uuid.uuid4().hex}.jpg"
        words = ["--face", face, "--preview", str(sheet), "--detector", self.limits["detector"]]
        return sheet, inference.preview(inference.parse(words))

    def make(self, face, audio, number, values, tell):
        """Draws a video; returns its path and the report. number: of who talks, or None.  tell: see `Bar`."""
        if not face:
            raise InputError("Give a face: a video or a picture")
        if not audio:
            raise InputError("Give a sound: a file, or record one")
        outfile = self.folder / uuid.uuid4().hex / "result.mp4"
        make_folder(outfile.parent)
        sound = audio if number is None else {number: audio}
        report = self.draw(face, sound, outfile, bar=partial(Bar, tell), **self.limits, **given(values))
        return outfile, report


def field(action):
    """The field of a flag on the page."""
    import gradio

    about = {"label": action.dest, "info": (action.help or "").replace("%(default)s", str(action.default))}
    if is_switch(action):
        return gradio.Checkbox(bool(action.default), **about)
    if action.choices:
        return gradio.Dropdown(list(action.choices), value=action.default, **about)
    if action.type in (int, float) and action.nargs is None:
        return gradio.Number(action.default, precision=0 if action.type is int else None, **about)
    words = action.metavar if isinstance(action.metavar, tuple) else [action.metavar or ""]
    return gradio.Textbox(shown(action), placeholder=" ".join(words), **about)


def page(jobs):
    """The page: a gradio `Blocks` over `Jobs`."""
    import gradio as gr

    names, nothing = list(form()), gr.Progress()

    def told(work, *uploads):
        try:
            return work()
        except InputError as error:
            raise gr.Error(plain(str(error), *uploads), duration=None, print_exception=False) from error

    def look(face):
        """Shows what was given, and who is seen in it."""
        if not face:
            return [gr.skip() for _ in range(4)]
        sheet, count = told(lambda: jobs.look(face), face)
        moving, numbers = is_video(face), [(f"number {number}", number) for number in range(count)]
        return (
            gr.Video(face if moving else None, visible=moving),
            gr.Image(None if moving else face, visible=not moving),
            gr.Image(str(sheet), visible=count > 0),
            gr.Radio([("as the flags say", -1), *numbers], value=-1, visible=count > 1),
        )

    def make(face, audio, number, *values, progress=nothing):  # gradio puts its own there
        """Draws a video; returns it, its report, and both for download."""
        number = number if number is not None and number >= 0 else None
        fields = dict(zip(names, values, strict=True))
        outfile, report = told(lambda: jobs.make(face, audio, number, fields, progress), face, audio)
        return (
            str(outfile),
            json.dumps(report, indent=1, default=str),
            [str(outfile), str(outfile.with_suffix(".json"))],
        )

    sound, shown_only = {"elem_id": "sound", "buttons": ["download"]}, {"interactive": False, "buttons": ["download"]}
    how = {"title": TITLE, "analytics_enabled": False, "delete_cache": (EVERY_S, OLD_S)}
    with gr.Blocks(**how) as blocks:
        gr.Markdown(f"# {TITLE}\n{CONSENT}")
        with gr.Row():
            with gr.Column():
                face = gr.File(label="Face: a video or a picture", elem_id="face", height=110)
                audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Sound", **sound)
                number = gr.Radio([("as the flags say", -1)], value=-1, label="Who talks", visible=False, elem_id="who")
                with gr.Accordion("Flags", open=False, elem_id="flags"):
                    fields = [field(action) for action in form().values()]
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
            with gr.Column():
                with gr.Row():
                    video = gr.Video(label="Given", visible=False, **shown_only)
                    picture = gr.Image(label="Given", visible=False, type="filepath", **shown_only)
                    result = gr.Video(label="Drawn", elem_id="result", **shown_only)
                files = gr.File(label="Download", file_count="multiple", interactive=False, height=110, elem_id="files")
                sheet = gr.Image(label="Who is seen", visible=False, type="filepath", elem_id="seen", **shown_only)
                with gr.Accordion("Report", open=False):
                    report = gr.Code(language="json", show_label=False, elem_id="report")
        one = {"concurrency_id": "jobs", "concurrency_limit": 1}
        face.upload(look, face, [video, picture, sheet, number], show_progress="minimal", **one)
        draw.click(make, [face, audio, number, *fields], [result, report, files], show_progress_on=[result], **one)
    return blocks


def parse(argv):
    """Parses the command line: the flags of inference.py that hold for all jobs, and the page's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", default=7860, type=int, help="of this machine (default: %(default)s)")
    parser.add_argument("--max_megabytes", type=int, help="refuse larger files (default: %(default)s)")
    for name, action in actions().items():
        if name in SERVER:
            limit = " (default: %(default)s)" if name in LIMITS else ""
            action.help += limit
            parser._add_action(action)
    parser.set_defaults(**LIMITS)
    args = parser.parse_args(argv)
    for name in ("port", "max_megabytes"):
        if not 1 <= getattr(args, name) <= 65_535:
            parser.error(f"--{name} {getattr(args, name)}: must be between 1 and 65535")
    return args


def serve(args):
    """Shows the page until it is stopped."""
    with tempfile.TemporaryDirectory(prefix="talklip_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where gradio keeps uploads: gone with the page
        try:
            import gradio
        except ImportError as error:
            raise InputError(MISSING) from error
        from talklip.library import LipSync

        draw = LipSync(*(getattr(args, name) for name in MODEL))
        limits = {name: getattr(args, name) for name in SERVER if name not in MODEL}
        blocks = page(Jobs(draw, limits, Path(folder)))
        theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none from elsewhere
        where = {"server_name": "127.0.0.1", "server_port": args.port, "share": False, "ssr_mode": False}
        try:
            blocks.queue(default_concurrency_limit=1, api_open=False).launch(
                **where, theme=theme, max_file_size=f"{args.max_megabytes}mb", quiet=True, prevent_thread_lock=True
            )
        except OSError as error:
            raise InputError(f"--port {args.port} is taken: give another one") from error
        print(f"http://127.0.0.1:{args.port} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(1)
        finally:
            blocks.close(verbose=False)


def main(argv=None):
    """Parses the flags and shows the page."""
    args = parse(argv)
    return exit_code("app.py", lambda: serve(args), if_stopped="stopped")


if __name__ == "__main__":
    sys.exit(main())
