"""What our outputs say of themselves: to people, to other programs, and to this code, which replaces no other files."""

import json

from errors import InputError
from media.files import open_media

SYNTHETIC = "Synthetic media: the mouth in this video was redrawn by a neural network to fit its sound."
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"  # IPTC's word for it
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
    f'{SOURCE}</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
LABEL, LABEL_SHARE = "AI-generated", 0.05  # the visible mark, and its height as a share of the picture's


def labelled(frame):
    """A `Frame` with the visible mark in its lower left corner."""
    import cv2
    import numpy as np

    width, height = frame.size
    scale = LABEL_SHARE * height / 22  # cv2's capitals are 22 px high
    (wide, high), below = cv2.getTextSize(LABEL, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1, 0.9 * width / wide)
    (wide, high), below = cv2.getTextSize(LABEL, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    patch = np.zeros((min(high + 3 * below, height), min(wide + 2 * below, width), 3), np.uint8)
    white, at = (255, 255, 255), (below, high + below)
    cv2.putText(patch, LABEL, at, cv2.FONT_HERSHEY_SIMPLEX, scale, white, max(1, round(scale)), cv2.LINE_AA)
    return frame.paste(patch, 0, height - len(patch))


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
