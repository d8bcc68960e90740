"""One HTML page that shows methods side by side, clip by clip; it opens offline and can be sorted by any measure."""

import base64
import io
import json
from fractions import Fraction
from html import escape
from string import Template

import cv2
import numpy as np

from audio import RATE
from media.clip import FPS

STRIP_FRAMES, QUALITY, CRF = 9, 90, "20"

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
 body { font: 15px/1.4 sans-serif; margin: 2em; color: #222 }
 table { border-collapse: collapse; margin: 1em 0 }
 th, td { border: 1px solid #bbb; padding: 2px 6px; text-align: left }
 section { border-top: 1px solid #bbb; padding: 0 0 1em } h2 { font-size: 1.1em }
 figure { display: flex; flex-wrap: wrap; gap: 4px 1em; margin: 8px 0 } figcaption { width: 100%; max-width: 75em }
 img, video { height: 128px } small { color: #666 }
</style>
<h1>$title</h1>
$tables
<p>Sort by <select id="measure">$measures</select> of <select id="row">$rows</select>
 <label><input type="checkbox" id="falling"> largest first</label></p>
<div id="clips">
$clips
</div>
<script>
// The order is in the address, so that it can be kept or sent: #measure,row,falling
const part = id => document.getElementById(id);
const score = clip => JSON.parse(clip.dataset.scores)[part("row").value]?.[part("measure").value] ?? NaN;
function sort() {
  const sign = part("falling").checked ? -1 : 1;
  const clips = [...document.querySelectorAll("section")].map(clip => [sign * score(clip), clip]);
  clips.sort(([a, _], [b, __]) => (isNaN(a) - isNaN(b)) || a - b);  // clips without a score stand last
  part("clips").append(...clips.map(([_, clip]) => clip));
}
function play(button) {
  for (const video of button.closest("section").querySelectorAll("video")) {
    video.currentTime = 0;
    video.play();
  }
}
const [measure, row, falling] = location.hash.slice(1).split(",").map(decodeURIComponent);
if (measure) part("measure").value = measure;
if (row) part("row").value = row;
part("falling").checked = falling === "1";
for (const id of ["measure", "row", "falling"]) part(id).addEventListener("change", () => {
  const order = [part("measure").value, part("row").value, part("falling").checked ? "1" : "0"];
  location.hash = order.map(encodeURIComponent).join(",");
  sort();
});
sort();
</script>
</html>
""")


def strip(faces):
    """A few frames of a clip beside each other, as a JPEG file. faces: (T, H, W, 3) uint8, RGB. Returns bytes."""
    at = np.linspace(0, len(faces) - 1, STRIP_FRAMES).astype(int)
    row = np.concatenate(list(faces[at]), axis=1)[..., ::-1]
    return cv2.imencode(".jpg", row, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def encoded(faces, wav):
    """The media of a row of a clip on the page: a strip and a video with its sound, as JPEG and MP4 files.

    faces: (T, H, W, 3) uint8, RGB, 25 a second.  wav: (samples,) int16, 16 kHz. Returns two bytes.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        pictures = out.add_stream("libx264", rate=FPS, options={"crf": CRF, "preset": "veryfast", "threads": "1"})
        pictures.height, pictures.width, pictures.pix_fmt = *faces.shape[1:3], "yuv420p"
        sound = out.add_stream("aac", rate=RATE, layout="mono")
        for rgb in faces:
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        out.mux(pictures.encode(None))
        samples = np.ascontiguousarray(wav[None, : len(faces) * RATE // FPS], np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return strip(faces), file.getvalue()


def figure(row, lines, media):
    """A row of a clip: its measures, its strip and its video. lines: of text. media: see `encoded`."""
    picture, film = (base64.b64encode(part).decode() for part in media)
    text = "<br>".join(escape(line) for line in lines)
    return (
        f"<figure><figcaption>{escape(row)}<br><small>{text}</small></figcaption>"
        f'<img src="data:image/jpeg;base64,{picture}" alt="{escape(row, quote=True)}">'
        f'<video src="data:video/mp4;base64,{film}" controls loop preload="metadata"></video></figure>'
    )


def clip_section(name, said, scored, columns):
    """One clip with all its rows. scored: a `scoring.Scored`. columns: {measure: `table.Column`}."""
    values, figures = {}, []
    for row, media in scored.media.items():
        rates = {m: total / weight for m, (total, weight) in scored.rows[row].items() if weight}
        values[row] = {measure: round(rate * columns[measure].scale, 4) for measure, rate in rates.items()}
        measured = [f"{columns[m].title}: {value:.{columns[m].digits}f}" for m, value in values[row].items()]
        read = [f"{reader}: {sentence}" for reader, sentence in scored.read.get(row, {}).items()]
        lines = [" · ".join(part) for part in (measured, read) if part]
        figures.append(figure(row, lines, media))
    data = escape(json.dumps(values), quote=True)
    head = f'<h2>{escape(name)} <small>{escape(said)}</small> <button onclick="play(this)">play all</button></h2>'
    return (
        f'<section data-name="{escape(name, quote=True)}" data-scores="{data}">\n{head}\n{"".join(figures)}\n</section>'
    )


def html_table(markdown):
    """A Markdown table as HTML; bold cells stay bold."""
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if not line.startswith("|---")]
    lines = []
    for tag, cells in zip(["th"] + ["td"] * len(rows), rows, strict=False):
        cells = (f"<b>{escape(c[2:]).replace('**', '</b>')}" if c.startswith("**") else escape(c) for c in cells)
        lines.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def page(title, tables, scored, said, columns):
    """The page as text.

    tables: Markdown tables that stand above.  scored: {clip: `scoring.Scored` with media}.  said: {clip: sentence}.
    columns: {measure: `table.Column`}, in the order in which they may be chosen.
    """
    rows = next(iter(scored.values())).media
    return PAGE.substitute(
        title=escape(title),
        tables="\n".join(html_table(table) for table in tables),
        measures="".join(f'<option value="{escape(m)}">{escape(c.title)}</option>' for m, c in columns.items()),
        rows="".join(f'<option value="{escape(row, quote=True)}">{escape(row)}</option>' for row in rows),
        clips="\n".join(clip_section(name, said[name], each, columns) for name, each in scored.items()),
    )
