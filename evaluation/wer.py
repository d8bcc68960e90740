"""What the evaluation lip readers make of generated lips, clip by clip: word errors, and how alike to the real ones."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F

import distributed
from data import collate
from distributed import device_of
from errors import InputError
from evaluation.rows import TRUTH
from experts.data import word_frames
from experts.lip_reader import features, load_reader, write
from faces import mouth
from hparams import WEIGHTS
from models.decoder import END, PAD

EVALUATION_READERS = {name: WEIGHTS[name] for name in ("reader1", "reader2", "words")}
BEYOND = 0.03  # of the face box: how far a mouth ROI may reach out of the crop, in the mean over its ends
NUMBERS = {"reader1": 1, "reader2": 3}  # of the WER that each gives when it runs free


@torch.inference_mode()
def teacher_forced(reader, batch):
    """The sentences that a reader finds under teacher forcing, given all true tokens before each: TalkLip's WER2.

    batch: see `data.collate`. Returns a list of sentences, as many tokens as are true, those of the end left out.
    """
    with distributed.autocast(batch["roi"].device, reader.hp.amp):
        logits = reader.net(batch["roi"], batch["previous"], batch["roi_padding"])
    lengths = (batch["tokens"] != PAD).sum(1) - 1  # without the end
    found = ([t for t in best[:n].tolist() if t != END] for best, n in zip(logits.argmax(-1), lengths, strict=True))
    return [reader.tokenizer.decode(tokens) for tokens in found]


def mouths(crops, clip, margin, roi):
    """The mouth ROI of crops, where the real clip's mouth is: (T, 1, 88, 88) grey in [0, 1].

    crops: (T, P, P, 3) uint8, RGB, with `margin` box sizes around the face box.  roi: "aligned" or "lrs2".
    Raises InputError where "lrs2" does not fit the clip, or reaches beyond its crops.
    """
    count = len(crops)
    windows = clip.windows[:count] if roi == "aligned" else mouth.lrs2(clip.boxes[:count], clip.size)
    windows = mouth.inner(windows)
    ends = np.stack([windows[..., 2], windows.sum(-1)])  # two opposite corners of the ROI, in the face box
    if roi == "lrs2" and np.maximum(-margin - ends, ends - 1 - margin).mean((1, 2)).max() > BEYOND:
        raise InputError(f"{clip.path}: LRS2's middle {mouth.ROI_PX} px reach beyond the crop around the face")
    greys = torch.from_numpy(np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops]))[:, None] / 255
    return mouth.cut(greys, torch.from_numpy(windows), margin)


def count_errors(said, read):
    """Wrong words, words, wrong characters and characters of a sentence that was read (jiwer); case does not count."""
    import jiwer

    said, read = (" ".join(each.lower().split()) for each in (said, read))
    words, letters = jiwer.process_words(said, read), jiwer.process_characters(said, read)
    wrong = [each.substitutions + each.deletions + each.insertions for each in (words, letters)]
    return wrong[0], len(said.split()), wrong[1], len(said)


class EvaluationReaders:
    """Lip readers under which no generator was trained: their WER and CER, free and teacher-forced, and word accuracy.

    paths: {"reader1", "reader2", "words": path or None}; those that are None do not read.
    Raises InputError for a file that holds no reader, or one of the other kind.
    """

    def __init__(self, paths, device="cpu"):
        device = device_of(device)
        self.readers = {name: load_reader(path) for name, path in paths.items() if path is not None}
        for name, reader in self.readers.items():
            reader.net.to(device)
            if (reader.words is None) == (name == "words"):
                what = "single words" if reader.words else "sentences"
                raise InputError(f"--{name} {paths[name]} reads {what}: give it under another flag")

    def fault(self, clip):
        """The reason why a clip cannot be read, or None: no transcript, or words or letters that a reader lacks."""
        if not clip.text.strip():
            return "its transcript is empty, so it has no error rate"
        for name, reader in self.readers.items():
            if len(clip) > reader.hp.longest:
                return f"{len(clip)} frames, --{name} takes {reader.hp.longest} at most"
            if reader.words:
                unknown = [word for word in clip.words[: len(clip.times)] if word.lower() not in reader.words]
                if unknown:
                    return f"--{name} was trained on other text: it has no word {unknown[0]!r}"
                continue
            try:
                reader.tokenizer.encode(clip.text)
            except InputError as error:
                return f"--{name} was trained on other text: {error}"
        return None

    @torch.inference_mode()
    def __call__(self, rows, clip, margin):
        """Reads all rows of a clip at once: {row: {measure: (sum, weight)}} and {row: {reader: sentence}}.

        rows: {row: crops (T, P, P, 3) uint8}, all of one length.
        """
        scores, sentences = {row: {} for row in rows}, {row: {} for row in rows}
        for name, reader in self.readers.items():
            rois = torch.stack([mouths(crops, clip, margin, reader.hp.roi) for crops in rows.values()])
            rois = rois.to(reader.device)
            if name == "words":
                for row, pair in zip(rows, words_right(reader, rois, clip), strict=True):
                    scores[row]["words"] = pair
                continue
            memory = features(reader, rois)
            if name == "reader1" and TRUTH in rows:
                cosines = lip_cosines(memory, list(rows).index(TRUTH))
                for row, cosine in zip(rows, cosines.tolist(), strict=True):
                    scores[row]["lip_cosine"] = (cosine, 1)
            for row, text in zip(rows, write(reader, memory), strict=True):
                wrong, words, letters, all_letters = count_errors(clip.text, text)
                scores[row] |= {f"wer_{NUMBERS[name]}": (wrong, words), f"cer_{NUMBERS[name]}": (letters, all_letters)}
                sentences[row][name] = text
            if name == "reader2":
                tokens = torch.tensor(reader.tokenizer.encode(clip.text))
                batch = collate([{"roi": roi, "tokens": tokens} for roi in rois.cpu()])
                batch = {part: each.to(reader.device) for part, each in batch.items()}
                for row, text in zip(rows, teacher_forced(reader, batch), strict=True):
                    wrong, words, _, _ = count_errors(clip.text, text)
                    scores[row]["wer_2"] = (wrong / words, 1)
                    sentences[row]["reader2, teacher forced"] = text
        return scores, sentences


def lip_cosines(seen, true):
    """How alike the lips of each row are to the real ones for a lip reader: the mean cosine of its features, (rows,).

    seen: (rows, T, D), features of a reader.  true: the place of the real row.
    Differs: LipScore takes the cosines as they are; here each is of features less the mean of the real clip's, which
    all mouths of a person have in common.
    """
    apart = seen - seen[true].mean(0)
    return F.cosine_similarity(apart, apart[true], dim=-1).mean(1)


def words_right(reader, rois, clip):
    """The number of a clip's words that a word classifier names right, and of all, for each row: [(right, words), ...].

    rois: (rows, T, 1, 88, 88).
    """
    length, pairs = rois.shape[1], []
    words = list(zip(clip.words, clip.times, strict=False))  # words without times are not cut out
    if not words:
        return [(0, 0)] * len(rois)
    for roi in rois.cpu():
        samples = []
        for word, times in words:
            own = word_frames(length, times)
            frames = np.arange(max(own[0] - reader.hp.context, 0), min(own[-1] + reader.hp.context + 1, length))
            place = torch.tensor(reader.words.index(word.lower()))
            samples.append({"roi": roi[frames], "word": place, "inside": torch.from_numpy(np.isin(frames, own))})
        batch = {name: each.to(reader.device) for name, each in collate(samples).items()}
        best = reader.net(batch["roi"], batch["roi_padding"], batch["inside"]).argmax(-1)
        pairs.append((int((best == batch["word"]).sum()), len(words)))
    return pairs
