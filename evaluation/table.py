"""The table of an evaluation: its columns, its rows with intervals, and the files that hold them."""

import csv
import io
import json
from dataclasses import dataclass

from corpora.corpus import speaker
from evaluation.bootstrap import LEAST, LEVEL, MANY, difference, estimate
from evaluation.rows import BASELINES, COPIED, OTHER_SOUND, ROOM, SILENCE, TRUTH


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
    "lmd_dtw": Column("LMD, soft-DTW, % of eye distance", 2, 1, "low"),
    "lip_travel": Column("lip travel, % of real", 0, 100),
    "follows": Column("follows real, r", 2, 1, "high"),
    "opening_r": Column("opening, r", 2, 1, "high"),
    "opening_slope": Column("opening, slope", 2),
    "opening_deviation": Column("opening, deviation, % of real", 0, 100),
    "opening_peaks": Column("opening at real peaks, % of real", 0, 100),
    "opening_closures": Column("opening at real closures, eye distances", 3),
    "opening_mean": Column("opening, mean, eye distances", 3),
    "opening_closed": Column("closed, eye distances", 3),
    "width_r": Column("width, r", 2, 1, "high"),
    "width_slope": Column("width, slope", 2),
    "width_deviation": Column("width, deviation, % of real", 0, 100),
    "width_reach": Column("width, wide less narrow, % of real", 0, 100),
    "identity": Column("face distance", 3, 1, "low"),
    "identity_same": Column("face distance, same person in another clip", 3),
    "identity_other": Column("face distance, another person", 3),
    "no_face": Column("no face, % of frames", 1, 100, "low"),
    "sync_c": Column("sync C", 2, 1, "high"),
    "sync_d": Column("sync D", 2, 1, "low"),
    "sync_offset": Column("offset, frames", 1),
    "lip_cosine": Column("lip cosine, reader 1", 2, 1, "high"),
    "wer_1": Column("WER reader 1, free, %", 1, 100, "low"),
    "cer_1": Column("CER reader 1, free, %", 1, 100, "low"),
    "wer_2": Column("WER reader 2, teacher-forced, %", 1, 100, "low"),
    "wer_3": Column("WER reader 2, free, %", 1, 100, "low"),
    "cer_3": Column("CER reader 2, free, %", 1, 100, "low"),
    "words": Column("words right, %", 1, 100, "high"),
}
FEW = 5  # people, at most, who are also shown one by one
SIGNS = 6  # of one sign, at least: the first number for which a two-sided sign test is below 5 %
FEW_WORDS = 100  # below, what they can show is said
REST = {
    "closed": Column("real mouth closed, eye distances", 3),
    "silence": Column("opening under digital silence", 3),
    "apart": Column("apart", 3),
    "room": Column("opening under room silence", 3),
    "room_apart": Column("apart", 3),
}


def columns_of(scored, sync_titles=None):
    """The columns that clips were measured in, in the order of the table. sync_titles: {"c": title, "d": ...}."""
    found = {measure for each in scored.values() for row in each.rows.values() for measure in row}
    columns = {measure: column for measure, column in COLUMNS.items() if measure in found}
    for name, title in (sync_titles or {}).items():
        old = COLUMNS[f"sync_{name}"]
        columns[f"sync_{name}"] = Column(title, old.digits, old.scale, old.better)
    return columns


def rows_of(clips):
    """{row: {measure: [(sum, weight) of each clip]}} of {clip: {row: {measure: (sum, weight)}}}: the same clips in
    every row, in the same order.
    """
    rows = {}
    for each in clips.values():
        for row, found in each.items():
            for measure, pair in found.items():
                rows.setdefault(row, {}).setdefault(measure, []).append(pair)
    return rows


def methods_of(rows):
    """The rows that are methods under their right sound: no baseline, no other sound, no silence."""
    return [row for row in rows if row not in BASELINES and not row.endswith((OTHER_SOUND, SILENCE, ROOM))]


def summary(scored):
    """All numbers of a split: rows, leak, gains over the baselines and, of several methods, paired differences.

    Of a few people, rows and differences are also told for each of them, over their own clips.
    """
    clips = {name: each.rows for name, each in scored.items()}
    pairs, people = rows_of(clips), [speaker(name) for name in clips]
    methods = methods_of(pairs)
    rows = estimates_of(pairs, people)
    leaks = {method: leak for method in methods if (leak := leak_of(pairs, method, people))}
    gains = {method: gain for method in methods if (gain := gains_of(pairs, method, people))}
    apart = differences_of(pairs, methods, people)
    rests = {method: rest for method in methods if (rest := rest_of(pairs, method, people))}
    own = {}
    for person in dict.fromkeys(people) if 1 < len(set(people)) <= FEW else ():
        part = rows_of({name: each for name, each in clips.items() if speaker(name) == person})
        found = estimates_of({method: part[method] for method in methods}) | differences_of(part, methods)
        own[person] = found
    about = {"people": len(set(people) - {""}), "words": words_of(pairs)}
    tables = {"rows": rows, "leak": leaks, "rest": rests, "gains": gains, "differences": apart, "by_person": own}
    return about | tables


def estimates_of(pairs, people=None):
    """Every measure of every row with its interval."""
    return {row: {name: estimate(each, people) for name, each in found.items()} for row, found in pairs.items()}


def differences_of(pairs, methods, people=None):
    """The paired differences of the other methods to the first."""
    first, *others = methods or [None]
    return {
        f"{row} - {first}": {name: difference(pairs[row][name], pairs[first][name], people) for name in pairs[row]}
        for row in others
    }


def words_of(pairs):
    """The words by which a split's error rates are counted, or None where nobody reads."""
    measure = next((name for name in ("wer_1", "wer_3") if name in pairs.get(TRUTH, {})), None)
    return measure and int(sum(weight for _, weight in pairs[TRUTH][measure]))


def leak_of(pairs, method, people=None):
    """The leak of a method: its lip travel under another clip's sound and under silence, as a share of its own.

    `follows`: its correlation with the real mouth then, which it should not be able to know.
    """
    found = {}
    for what, row in (("other clip's sound", method + OTHER_SOUND), ("silence", method + SILENCE)):
        if "lip_travel" in pairs.get(row, {}):
            both = zip(pairs[row]["lip_travel"], pairs[method]["lip_travel"], strict=True)
            travel = estimate([(theirs[0], own[0]) for theirs, own in both], people)
            found[what] = {"lip_travel": travel, "follows": estimate(pairs[row]["follows"], people)}
    return found


def rest_of(pairs, method, people=None):
    """A method's mouth at rest: its mean opening under both silences, the real mouth when closed, the differences."""
    found, closed = {}, pairs[TRUTH].get("opening_closed")
    for name, apart, row in (("silence", "apart", SILENCE), ("room", "room_apart", ROOM)):
        if (rest := pairs.get(method + row, {}).get("opening_mean")) is not None:
            found |= {name: estimate(rest, people), apart: difference(rest, closed, people)}
    return found and {"closed": estimate(closed, people), **found}


def gains_of(pairs, method, people=None):
    """The gain of a method over the copied frame, and the share by which the right sound lowers its L1 error."""
    found = {}
    if "psnr_mouth" in pairs[method]:
        both = pairs[method]["psnr_mouth"], pairs[COPIED]["psnr_mouth"]
        found["psnr_mouth over the copy, dB"] = difference(*both, people)
    if "l1_mouth" in pairs.get(method + OTHER_SOUND, {}):
        both = zip(pairs[method]["l1_mouth"], pairs[method + OTHER_SOUND]["l1_mouth"], strict=True)
        found["L1 mouth, lowered by the right sound"] = estimate([(o[0] - r[0], o[0]) for r, o in both], people)
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


def what_can_be_told(result):
    """What the intervals are over, and what so few people, clips and words can show: a list of lines."""
    clips, people, words = len(result["clips"]), result["people"], result["words"]
    units, what = (clips, "clips") if people < 2 else (people, "people")
    told = f"{LEVEL:.0%} interval over {units} {what}"
    if people < 2:
        told += ", all of one person: it says nothing of other people" if people else "; whose, no name tells"
    lines = [f"±: {told}, {'by bootstrap' if units >= MANY else 'by Student’s t, each left out in turn'}"]
    if units < LEAST:
        lines = [f"no ±: {units} {what} have no interval of {LEVEL:.0%} that could be of use"]
    if units < SIGNS:
        least = 2 ** (1 - units)
        lines.append(
            f"{units} {what} that all favour one row do so by chance with p = {least:.2g}; at 5 %, {SIGNS} would be "
            "needed. By signs this list cannot show which row is better, and ± leans on a normal distribution"
        )
    if unknown := [row for row, known in result.get("teachers", {}).items() if known is None]:
        lines.append(f"{', '.join(unknown)}: nothing says which experts taught it, so that no judge was refused")
    if words and words < FEW_WORDS:
        lines.append(
            f"{words} words: one is {100 / words:.1f} points of WER, and rows that differ in fewer than {SIGNS} of "
            f"them ({100 * SIGNS / words:.0f} points), or do not agree to which side, cannot be told apart; none "
            f"of {words} right still allows {100 * (1 - 0.05 ** (1 / words)):.0f} %"
        )
    return lines


def markdown(split, result, columns):
    """A split's tables: the rows, leak, mouth at rest, gains, differences of methods; what was left out, and notes."""
    title = f"{split}, {len(result['clips'])} clips"
    rows = result["rows"]
    parts = [table(title, rows, columns, best_of(rows, methods_of(rows), columns))]
    leaks = {f"{method}: {what}": leak for method, found in result["leak"].items() for what, leak in found.items()}
    if leaks:
        shown = {"lip_travel": Column("lip travel, % of right sound", 0, 100), "follows": COLUMNS["follows"]}
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
    if result["by_person"]:
        rows = {f"{person}: {row}": found for person, own in result["by_person"].items() for row, found in own.items()}
        parts.append(table("by person, ± over their own clips", rows, columns))
    parts.append("\n".join(f"- {line}" for line in what_can_be_told(result)))
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
