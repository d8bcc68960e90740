"""Sentences as tokens: the subword tokenizer of every lip reader here, and its training."""

import hashlib
import io

from data import Clips
from errors import InputError
from hparams import HParams
from media.clip import Clip
from models.decoder import BEGIN, END, PAD, UNKNOWN

SPECIALS = {"bos_id": BEGIN, "pad_id": PAD, "eos_id": END, "unk_id": UNKNOWN}
KINDS = ("unigram", "bpe", "word", "char")
SPACE = "▁"  # sentencepiece's mark for the start of a word


class Tokenizer:
    """A sentencepiece model, whose ids are those of the lip reader's embedding: 0 to 3 are BEGIN, PAD, END, UNKNOWN.

    model: a serialised sentencepiece proto. Raises InputError if it is none, or if its special ids are others.
    """

    def __init__(self, model):
        from sentencepiece import SentencePieceProcessor

        try:
            self._pieces = SentencePieceProcessor(model_proto=model) if model else None
        except (RuntimeError, TypeError) as error:
            raise InputError("not a sentencepiece model, or one that is cut off: train the tokenizer again") from error
        if not model:
            raise InputError("an empty sentencepiece model: train the tokenizer again")
        found = {name: getattr(self._pieces, name)() for name in SPECIALS}
        if found != SPECIALS:
            raise InputError(f"a sentencepiece model with special ids {found}, not {SPECIALS}: train it with these")
        self._model = bytes(model)

    def __len__(self):
        return len(self._pieces)

    @property
    def model(self):
        """The serialised sentencepiece proto, from which the same tokenizer can be made."""
        return self._model

    @property
    def sha256(self):
        """The SHA-256 of the model, in hexadecimal."""
        return hashlib.sha256(self._model).hexdigest()

    @property
    def symbols(self):
        """Every piece as text, in the order of the ids."""
        return [self._pieces.id_to_piece(i) for i in range(len(self))]

    def encode(self, text, strict=True):
        """The ids of a sentence, lower-cased, END last.

        strict: refuse characters that the model does not know; otherwise they become UNKNOWN, as published.
        Raises InputError for those and for a sentence without words.
        """
        cleaned = clean(text)
        if not cleaned:
            raise InputError(f"{text!r} has no words: give its clip a transcript, or leave the clip out")
        ids = self._pieces.encode(cleaned)
        if strict and UNKNOWN in ids:
            unknown = self._pieces.encode(cleaned, out_type=str)[ids.index(UNKNOWN)].replace(SPACE, " ").strip()
            raise InputError(
                f"the tokenizer does not know {unknown!r} in {cleaned!r}: correct the transcript or retrain"
            )
        return [*ids, END]

    def decode(self, ids):
        """The sentence that ids say, up to the first END and without special ids. ids: (N,), a list or a tensor."""
        ids = [int(i) for i in ids]
        ids = ids[: ids.index(END)] if END in ids else ids
        return self._pieces.decode([i for i in ids if i not in SPECIALS.values()])


def clean(text):
    """A sentence as lip readers are trained on it: lower case, single spaces; empty without a letter or digit."""
    words = " ".join(text.lower().split())
    return words if any(letter.isalnum() for letter in words) else ""


def is_tokenizer(path):
    """Whether a file is a tokenizer of ours."""
    try:
        return bool(Tokenizer(path.read_bytes()))
    except InputError:
        return False


def train_tokenizer(texts, size, kind="unigram"):
    """A Tokenizer learnt from sentences: the same sentences in the same order give the same model, bit for bit.

    size: number of pieces, special ones included; fewer if the sentences have no more. kind: one of KINDS.
    Raises InputError if no sentence has words, or if `size` cannot hold every character.
    """
    from sentencepiece import SentencePieceTrainer

    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of tokenizer: choose one of {', '.join(KINDS)}")
    if size <= len(SPECIALS):
        raise InputError(f"a tokenizer of {size} pieces has no room beside its {len(SPECIALS)} special ones")
    sentences = [sentence for sentence in map(clean, texts) if sentence]
    if not sentences:
        raise InputError(f"none of {len(texts)} transcripts has words: a tokenizer is learnt from sentences")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=size,
            model_type=kind,
            hard_vocab_limit=False,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=5,  # it writes a page to stderr
            **SPECIALS,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).rpartition("] ")[2].split())
        raise InputError(f"{len(sentences)} transcripts give no {kind} tokenizer of {size} pieces: {reason}") from error
    return Tokenizer(model.getvalue())


def transcripts(data_root, split):
    """The transcript of each clip of a split, in the order of its list. Raises InputError as `Clips` and `Clip` do."""
    return [Clip(path).text for path in Clips(data_root, split, HParams()).paths]
