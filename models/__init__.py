"""The networks: `build_generator`, `build_discriminator` and `build_reader` make what knobs ask for."""

from torch import nn

from models import cals
from models.avhubert import AVHubert
from models.conformer import EPS, Conformer
from models.decoder import Decoder, interleaved
from models.lip_reader import LipReader, WordClassifier
from models.syncnet import CompactSync
from models.synctalklip import AVSyncNetConv
from models.talklip import Discriminator, PatchDiscriminator, TalkLip
from models.warp import ReferenceWarp
from models.wav2lip import SYNC_TABLES, Wav2Lip, Wav2LipSync

CONFORMER_NORMAL = 0.4161, 0.1688  # mean and standard deviation of the grey values it was published with


def build_generator(hp):
    """An untrained generator of the family and size that `hp` says."""
    return {"talklip": TalkLip, "wav2lip": Wav2Lip, "cals": cals.Cals, "warp": ReferenceWarp}[hp.model](hp)


def build_discriminator(hp):
    """An untrained discriminator of the kind and size that `hp` says."""
    return {"talklip": Discriminator, "patch": PatchDiscriminator}[hp.discriminator](hp)


def build_reader(hp, tokens):
    """An untrained lip reader, or sync model, of the family and size that `hp`, an `ExpertHParams`, says.

    tokens: the size of its vocabulary; for the word classifier its number of words; None builds the encoder alone.
    """
    if hp.model == "sync":
        return CompactSync(hp.dim, hp.width, hp.shrink)
    if hp.model in SYNC_TABLES:
        return Wav2LipSync(hp.width, *SYNC_TABLES[hp.model])
    if hp.model in cals.TABLES:
        return cals.CalsSync(hp.width, *cals.TABLES[hp.model])
    if hp.model == "words":
        return WordClassifier(tokens, hp.layers, hp.dim, hp.dropout, hp.width, hp.shrink)
    sizes = hp.layers, hp.dim, hp.ffn, hp.heads
    written = tokens, hp.decoder_layers, hp.dim, hp.decoder_ffn, hp.decoder_heads, hp.dropout
    if hp.model == "conformer":
        encoder = Conformer(*sizes, dropout=hp.dropout, width=hp.width, shrink=hp.shrink)
        if tokens is None:
            return LipReader(encoder, None, CONFORMER_NORMAL)
        decoder = Decoder(*written, interleaved, scale=hp.dim**0.5, tied=False, eps=EPS)
        return LipReader(encoder, decoder, CONFORMER_NORMAL, nn.Linear(hp.dim, tokens))
    front = {"video": True, "width": hp.width, "shrink": hp.shrink, "grad_mult": hp.grad_mult}
    encoder = AVHubert(*sizes, hp.dropout, hp.layerdrop, **front)
    decoder = None if tokens is None else Decoder(*written)
    if hp.align_kernel > 1:
        return AVSyncNetConv(encoder, decoder, hp.dim, hp.align_kernel)
    return LipReader(encoder, decoder)
