"""Wav2Lip's generator (ACM MM 2020), the baseline: TalkLip's tables with local hearing and no audio map."""

from torch import nn

from models.layers import narrow
from models.talklip import DECODER, ENCODER, SPEECH, TO_RGB, Generator, LocalSpeech


class Wav2Lip(Generator):
    """Wav2Lip's generator: the embedding of 0.2 s of mel is the decoder's input as it is."""

    def __init__(self, hp, speech=SPEECH, encoder=ENCODER, decoder=DECODER, to_rgb=TO_RGB):
        super().__init__(hp, encoder, decoder, to_rgb)
        speech = narrow(speech, hp.width)
        self.speech, self.speech_size = LocalSpeech(speech), speech[-1].out
        self.audio_map = nn.Identity()
