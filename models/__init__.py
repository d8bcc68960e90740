"""The networks. `build_generator` makes the one that the knobs ask for, `device_of` finds where it may compute."""

import torch

from hparams import InputError
from models.talklip import TalkLip
from models.wav2lip import Wav2Lip


def build_generator(hp):
    """An untrained generator of the family and size that `hp` says."""
    return {"talklip": TalkLip, "wav2lip": Wav2Lip}[hp.model](hp)


def device_of(name):
    """The name of a device that computes: `name` itself, for None a GPU where there is one, else the processor.

    Raises InputError if this machine has no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # the latter: this torch is built without it
        raise InputError(f"--device {name} does not work here: {str(error).splitlines()[0]}") from error
    return name
