"""The networks. `build_generator` makes the one that the knobs ask for."""

from models.talklip import TalkLip
from models.wav2lip import Wav2Lip


def build_generator(hp):
    """An untrained generator of the family and size that `hp` says."""
    return {"talklip": TalkLip, "wav2lip": Wav2Lip}[hp.model](hp)
