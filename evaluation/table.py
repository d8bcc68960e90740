"""The table of an evaluation: its columns, its rows with intervals, and the files that hold them."""

import csv
import io
import json
from dataclasses import dataclass

from evaluation.bootstrap import difference, estimate
from evaluation.rows import BASELINES, COPIED, OTHER_SOUND, SILENCE, TRUTH


@dataclass(frozen=True)
class Column:
    """One measure: its title with the unit, digits, what it is multiplied with, and which end of it is better."""

    title: str
    digits: int = 1
    scale: float = 1
    better: str = ""  # "high", "low" or ""


COLUMNS = {
    "psnr": Column("PSNR, dB", 2, 1, "high"),
    "psnr_talklip": Column("PSNR as TalkLip's script wraps it, dB", 2, 1, "high"),
    "psnr_mouth": Column("PSNR mouth, dB", 2, 1, "high"),
    "ssim": Column("SSIM", 3, 1, "high"),
    "ssim_mouth": Column("SSIM mouth", 3, 1, "high"),
    "l1_mouth": Column("L1 mouth", 4, 1, "low"),
    "sharpness": Column("sharpness mouth, % of real", 0, 100),
    "sharpness_in_face": Column("sharpness mouth in its face, % of real", 0, 100),
    "sharpness_own": Column("sharpness mouth, own size, % of real", 0, 100),
    "sharpness_in_face_own": Column("sharpness mouth in its face, own size, % of real", 0, 100),
    "lmd": Column("LMD, % of eye distance", 2, 1, "low"),
    "lip_motion": Column("lip motion, % of real", 0, 100),
    "follows": Column("follows real, r", 2, 1, "high"),
    "opening_r": Column("opening, r", 2, 1, "high"),
    "opening_slope": Column("opening, slope", 2),
    "opening_deviation": Column("opening, deviation, % of real", 0, 100),
    "opening_mean": Column("opening, mean, eye distances", 3),
    "opening_closed": Column("closed, eye distances", 3),
    "no_face": Column("no face, % of frames", 1, 100, "low"),
    "sync_c": Column("sync C", 2, 1, "high"),
    "sync_d": Column("sync D", 2, 1, "low"),
    "sync_offset": Column("offset, frames", 1),
    "wer_1": Column("WER reader 1, free, %", 1, 100, "low"),
    "cer_1": Column("CER reader 1, free, %", 1, 100, "low"),
    "wer_2": Column("WER reader 2, teacher-forced, %", 1, 100, "low"),
    "wer_3": Column("WER reader 2, free, %", 1, 100, "low"),
    "cer_3": Column("CER reader 2, free, %", 1, 100, "low"),
    "words": Column("words right, %", 1, 100, "high"),
}
REST = {
    "silence": Column("opening under silence, eye distances", 3),
    "closed": Column("real mouth closed, eye distances", 3),
    "apart": Column("apart", 3),
}


def columns_of(scored, sync_titles=None):
    """The columns that clips were measured in, in the order of the table. sync_titles: {"c": title, "d": ...}."""
    found = {measure for each in scored.values() for row in each.rows.values() for measure in row}
    columns = {measure: column for measure, column in COLUMNS.items() if measure in found}
    for name, title in (sync_titles or {}).items():
        old = COLUMNS[f"sync_{name}"]
        columns[f"sync_{name}"] = Column(title, old.digits, old.scale, old.better)
    return columns


def rows_of(scored):
    """{row: {measure: [(sum, weight) of each clip]}}: the same clips in every row, in the same order."""
    rows = {}
    for each in scored.values():
        for row, found in each.rows.items():
            for measure, pair in found.items():
                rows.setdefault(row, {}).setdefault(measure, []).append(pair)
    return rows


def methods_of(rows):
    """The rows that are methods under their right sound: no baseline, no other sound, no silence."""
    return [row for row in rows if row not in BASELINES and not row.endswith((OTHER_SOUND, SILENCE))]


def summary(scored):
    """All numbers of a split: rows, leak, gains over the baselines and, of several methods, paired differences."""
    pairs = rows_of(scored)
    methods = methods_of(pairs)
    rows = {row: {measure: estimate(each) for measure, each in found.items()} for row, found in pairs.items()}
    leaks = {method: leak for method in methods if (leak := leak_of(pairs, method))}
    gains = {method: gain for method in methods if (gain := gains_of(pairs, method))}
    first, *others = methods or [None]
    apart = {
        f"{row} - {first}": {name: difference(pairs[row][name], pairs[first][name]) for name in pairs[row]}
        for row in others
    }
    rests = {method: rest for method in methods if (rest := rest_of(pairs, method))}
    return {"rows": rows, "leak": leaks, "rest": rests, "gains": gains, "differences": apart}


def leak_of(pairs, method):
    """The leak of a method: its lip motion under another clip's sound and under silence, as a share of its own.

    `follows`: its correlation with the real mouth then, which it should not be able to know.
    """
    found = {}
    for what, row in (("other clip's sound", method + OTHER_SOUND), ("silence", method + SILENCE)):
        if "lip_motion" in pairs.get(row, {}):
            both = zip(pairs[row]["lip_motion"], pairs[method]["lip_motion"], strict=True)
            motion = estimate([(theirs[0], own[0]) for theirs, own in both])
            found[what] = {"lip_motion": motion, "follows": estimate(pairs[row]["follows"])}
    return found


def rest_of(pairs, method):
    """A method's mouth at rest: its mean opening under silence, the real mouth when closed, and the difference."""
    silence = pairs.get(method + SILENCE, {}).get("opening_mean")
    if silence is None:
        return {}
    closed = pairs[TRUTH]["opening_closed"]
    return {"silence": estimate(silence), "closed": estimate(closed), "apart": difference(silence, closed)}


def gains_of(pairs, method):
    """The gain of a method over the copied frame, and the share by which the right sound lowers its L1 error."""
    found = {}
    if "psnr_mouth" in pairs[method]:
        found["psnr_mouth over the copy, dB"] = difference(pairs[method]["psnr_mouth"], pairs[COPIED]["psnr_mouth"])
    if "l1_mouth" in pairs.get(method + OTHER_SOUND, {}):
        both = zip(pairs[method]["l1_mouth"], pairs[method + OTHER_SOUND]["l1_mouth"], strict=True)
        found["L1 mouth, lowered by the right sound"] = estimate([(o[0] - r[0], o[0]) for r, o in both])
    return found


def cell(found, column, bold=False, signed=False):
    """A number with half the width of its 95 % interval, as the table shows it; empty where nothing was counted."""
    if not found or found["value"] is None:
        return ""
    value, low, high = (None if each is None else each * column.scale for each in found.values())
    text = f"{value:{'+' if signed else ''}.{column.digits}f}"
    text = f"**{text}**" if bold else text
    if low is None:
        return text
    if signed:
        return f"{text} [{low:+.{column.digits}f}, {high:+.{column.digits}f}]"
    return f"{text} ±{(high - low) / 2:.{column.digits}f}"


def best_of(rows, methods, columns):
    """{measure: the best methods}, as the table rounds them; empty where one stands alone or all are the same."""
    best = {}
    for measure, column in columns.items():
        values = {row: rows[row][measure]["value"] for row in methods if rows[row].get(measure)}
        values = {row: round(v * column.scale, column.digits) for row, v in values.items() if v is not None}
        if column.better and len(set(values.values())) > 1:
            end = (max if column.better == "high" else min)(values.values())
            best[measure] = {row for row, value in values.items() if value == end}
    return best


def table(title, rows, columns, best=None, signed=False):
    """Rows of numbers as a Markdown table."""
    lines = [f"| {title} | {' | '.join(c.title for c in columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for row, found in rows.items():
        cells = [cell(found.get(m), c, row in (best or {}).get(m, ()), signed) for m, c in columns.items()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(split, result, columns):
    """A split's tables: the rows, leak, mouth at rest, gains, differences of methods; what was left out, and notes."""
    title = f"{split}, {len(result['clips'])} clips"
    rows = result["rows"]
    parts = [table(title, rows, columns, best_of(rows, methods_of(rows), columns))]
    leaks = {f"{method}: {what}": leak for method, found in result["leak"].items() for what, leak in found.items()}
    if leaks:
        shown = {"lip_motion": Column("lip motion, % of right sound", 0, 100), "follows": COLUMNS["follows"]}
        parts.append(table(f"leak, {split}", leaks, shown))
    if result["rest"]:
        parts.append(table(f"at rest, {split}", result["rest"], REST))
    for method, gains in result["gains"].items():
        for what, found in gains.items():
            share = "%" if "lowered" in what else ""
            number = cell(found, Column("", 1 if share else 2, 100 if share else 1), signed=True)
            parts.append(f"{method}: {what}{', ' + share if share else ''}: {number}")
    if result["differences"]:
        parts.append(table("paired difference [95 % interval]", result["differences"], columns, signed=True))
    if result["left_out"]:
        lines = [f"- {name}: {reason}" for name, reason in result["left_out"].items()]
        parts.append("\n".join([f"Left out of every row, {len(lines)}:", "", *lines]))
    if result["notes"]:
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    return "\n\n".join(parts) + "\n"


def as_csv(splits, columns):
    """Every row of every split with its intervals, one line each; numbers are not scaled or rounded."""
    out = io.StringIO()
    ends = [name for measure in columns for name in (measure, f"{measure}_low", f"{measure}_high")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["split", "row", "clips", *ends])
    for split, result in splits.items():
        for row, found in result["rows"].items():
            cells = [found.get(measure, {}).get(end) for measure in columns for end in ("value", "low", "high")]
            writer.writerow([split, row, len(result["clips"]), *cells])
    return out.getvalue()


def as_json(report):
    """A report as JSON text, the same for the same numbers."""
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"
