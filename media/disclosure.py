"""What our outputs say of themselves, for people, and for this code, which replaces no other files."""

import json

from errors import InputError
from media.files import open_media

SYNTHETIC = "Synthetic media: the mouth in this video was redrawn by a neural network to fit its sound."


def is_earlier_report(path):
    """Whether a file is a report of this command."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["synthetic"] == SYNTHETIC
    except (KeyError, TypeError, ValueError):
        return False


def is_earlier_video(path):
    """Whether a file is a video that this command has made."""
    try:
        with open_media(path) as container:
            return SYNTHETIC in container.metadata.values()
    except InputError:
        return False
