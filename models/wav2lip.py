"""Wav2Lip's generator (ACM MM 2020), the baseline: TalkLip's tables with the local audio encoder and no audio map."""

from torch import nn

from models.layers import narrow
from models.talklip import SPEECH, Generator, LocalSpeech


class Wav2Lip(Generator):
    """Wav2Lip's generator: the embedding of 0.2 s of mel is the decoder's input as it is."""

    def __init__(self, hp, speech=SPEECH, tables=None):
        super().__init__(hp, tables)
        speech = narrow(speech, hp.width)
        self.speech, self.speech_size = LocalSpeech(speech), speech[-1].out
        self.audio_map = nn.Identity()
