"""TalkLip's generator and discriminator (CVPR 2023, supplement, tables 1 to 4)."""

import torch
import torch.nn.functional as F
from torch import nn

from models import larger_faces
from models.avhubert import AVHubert
from models.layers import ConvLeaky, ConvNorm, Norm, Row, UpNorm, begin, build, in_format_of, narrow, skip_channels
from models.whisper import PAIR, SpeechRows

# fmt: off
SPEECH = (  # table 1, local audio encoder; in: (1, 80, 16), a mel window
    #             out  k       s  p  res      size
    Row(ConvNorm,  32, 3,      1, 1,   2, (80, 16)),
    Row(ConvNorm,  64, 3, (3, 1), 1,   2, (27, 16)),
    Row(ConvNorm, 128, 3,      3, 1,   2,   (9, 6)),
    Row(ConvNorm, 256, 3, (3, 2), 1,   1,        3),
    Row(ConvNorm, 512, 3,      1, 0,   0,        1),
    Row(ConvNorm, 512, 1,      1, 0,   0,        1),
)

ENCODER = (  # table 2, video encoder; in: (6, 96, 96), pose prior and identity
    #             out  k  s  p  res  size
    Row(ConvNorm,  16, 7, 1, 3,   0,   96),
    Row(ConvNorm,  32, 3, 2, 1,   2,   48),
    Row(ConvNorm,  64, 3, 2, 1,   3,   24),
    Row(ConvNorm, 128, 3, 2, 1,   2,   12),
    Row(ConvNorm, 256, 3, 2, 1,   2,    6),
    Row(ConvNorm, 512, 3, 2, 1,   1,    3),
    Row(ConvNorm, 512, 3, 1, 0,   0,    1),
    Row(ConvNorm, 512, 1, 1, 0,   0,    1),
)

DECODER = (  # table 3, generator; in: the mapped speech, (512, 1, 1). Output padding is stride - 1
    #             out  k  s  p  res  size
    Row(ConvNorm, 512, 1, 1, 0,   0,    1),
    Row(UpNorm,   512, 3, 1, 0,   1,    3),  # Differs: the table says stride 2; of a 1x1 input it is the same
    Row(UpNorm,   512, 3, 2, 1,   2,    6),
    Row(UpNorm,   384, 3, 2, 1,   2,   12),
    Row(UpNorm,   256, 3, 2, 1,   2,   24),
    Row(UpNorm,   128, 3, 2, 1,   2,   48),
    Row(UpNorm,    64, 3, 2, 1,   2,   96),  # Differs: the table says residual 1x1 with pad 1, the weights are 3x3
)
TO_RGB = (  # table 3, its last two lines
    Row(ConvNorm,  32, 3, 1, 1,   0,   96),
    Row(nn.Conv2d,  3, 1, 1, 0,   0,   96),
)

DISCRIMINATOR = (  # table 4 (its caption says audio encoder); in: (3, 48, 96), the lower half of a face
    #              out  k       s  p  res      size
    Row(ConvLeaky,  32, 7,      1, 3,   0, (48, 96)),
    Row(ConvLeaky,  64, 5, (1, 2), 2,   0,       48),  # Differs: pad 1 in the table would leave 46 rows
    Row(ConvLeaky,  64, 5,      1, 2,   0,       48),
    Row(ConvLeaky, 128, 5,      2, 2,   0,       24),
    Row(ConvLeaky, 128, 5,      1, 2,   0,       24),
    Row(ConvLeaky, 256, 5,      2, 2,   0,       12),
    Row(ConvLeaky, 256, 5,      1, 2,   0,       12),
    Row(ConvLeaky, 512, 3,      2, 1,   0,        6),  # Differs: kernel 5, pad 2 in the table; the weights
    Row(ConvLeaky, 512, 3,      1, 1,   0,        6),  # of both lines are 3x3
    Row(ConvLeaky, 512, 3,      2, 1,   0,        3),
    Row(ConvLeaky, 512, 3,      1, 1,   0,        3),
    Row(ConvLeaky, 512, 3,      1, 0,   0,        1),
    Row(ConvLeaky, 512, 1,      1, 0,   0,        1),
    Row(nn.Conv2d,   1, 1,      1, 0,   0,        1),  # Differs: the score is not in the table
)
PATCH = (  # in no paper's table: as Isola et al. 2017 have it, with two rows less; in: (3, 48, 48), the mouth
    #              out  k  s  p  res  size
    Row(ConvLeaky,  64, 4, 2, 1,   0,   24),
    Row(ConvLeaky, 128, 4, 2, 1,   0,   12),
    Row(ConvLeaky, 256, 4, 1, 1,   0,   11),
    Row(nn.Conv2d,   1, 4, 1, 1,   0,   10),  # a score sees 34x34 px
)
# fmt: on
FINE = 20.0  # what is finer than 5 px varies by about a twentieth of full scale

FACES = {  # size of a face in px: tables of encoder, decoder and colours
    96: (ENCODER, DECODER, TO_RGB),
    128: (larger_faces.ENCODER_128, larger_faces.DECODER_128, larger_faces.TO_RGB_128),
    256: (larger_faces.ENCODER_256, larger_faces.DECODER_256, larger_faces.TO_RGB_256),
}
DISCRIMINATORS = {96: DISCRIMINATOR, 128: larger_faces.DISCRIMINATOR_128, 256: larger_faces.DISCRIMINATOR_256}


class LocalSpeech(nn.Module):
    """The local audio encoder: it embeds 0.2 s of sound at a time (table 1).

    Differs: the table sums input and output of a block; in the weights each stride-1 3x3 convolution has its own sum.
    """

    def __init__(self, table=SPEECH):
        super().__init__()
        self.blocks = build(table, cin=1)

    def forward(self, mels, padding=None):
        """mels: (B, L, 1, 80, 16), one window per row.  padding: (B, L) bool or None: rows kept out of the batch norms.

        Returns (B, L, 512), 0 where there is padding. Each window is embedded on its own.
        """
        x = mels.flatten(0, 1) if padding is None else mels[~padding]  # (N, 1, 80, 16)
        x = in_format_of(self.blocks[0][0].conv.weight, x)
        for block in self.blocks:
            x = block(x)
        x = x.flatten(1)  # (N, 512)
        if padding is None:
            return x.unflatten(0, mels.shape[:2])  # (B, L, 512)
        return x.new_zeros(*mels.shape[:2], x.shape[1]).index_put((~padding,), x)


class Generator(nn.Module):
    """Generates faces that say given speech (tables 2 and 3); TalkLip and Wav2Lip differ in their audio encoders.

    A subclass adds `speech`, the audio encoder, the `speech_size` of its embedding, and `audio_map`, from that to the
    decoder's input.
    tables: of encoder, decoder and colours, by default those in `FACES` for the size of the face.
    `model.to(memory_format=torch.channels_last)` makes it run in that format; faces are converted inside.
    Differs: the text says that the decoder's input is the joined audio and video embedding. It is the audio alone;
    the video embedding joins after the first row like any other skip.
    """

    inputs = ("face",)  # parts of a sample that `generate` takes beside speech

    def __init__(self, hp, tables=None):
        super().__init__()
        encoder, decoder, to_rgb = (narrow(table, hp.width) for table in tables or FACES[hp.face_size])
        skips = skip_channels(encoder, hp.face_size)[::-1]
        self.encoder = build(encoder, cin=6)
        self.decoder = build(decoder, cin=decoder[0].out, skips=skips)
        self.to_rgb = nn.Sequential(*build(to_rgb, cin=decoder[-1].out + skips[-1]))

    def encode_audio(self, audio, padding=None):
        """Embeds a clip's speech.

        audio:   global (B, L, 104): filter banks of one frame each, normalised; local (B, L, 1, 80, 16): mel windows.
        padding: (B, L) bool, True after the end of a clip, or None.
        Returns (B, L, D): one row per frame of the clip.
        """
        return self.speech(audio, padding=padding)

    def generate(self, face, speech):
        """Generates each face anew, so that its mouth says the speech.

        face:   (B, T, 6, H, W) in [0, 1]: the pose prior, black in its lower half, then the identity, RGB.
        speech: (B, T, D): the row of `encode_audio` for each face.
        Returns (B, T, 3, H, W) in [0, 1], RGB, in the type of `face`, whatever autocast computes in.
        """
        x = in_format_of(self.encoder[0][0].conv.weight, face.flatten(0, 1))  # (B*T, 6, H, W)
        skips = {}
        for down in self.encoder:
            x = down(x)
            skips[int(x.shape[-1])] = x  # the last of each size; when it is exported, sizes are tensors
        x = self.audio_map(speech.flatten(0, 1))[..., None, None]  # (B*T, 512, 1, 1)
        for up in self.decoder:
            x = up(x)
            x = torch.cat([x, skips[int(x.shape[-1])]], dim=1)
        return self.to_rgb(x).to(face.dtype).sigmoid().unflatten(0, face.shape[:2])

    def forward(self, face, audio, frames, padding=None):
        """Embeds the speech of whole clips and generates some of their frames.

        face, audio, padding: as above. frames: (B, T) int64: the row of the clip's speech that each face says.
        Returns (B, T, 3, H, W) in [0, 1], RGB.
        """
        return self.generate(face, pick(self.encode_audio(audio, padding), frames))


def pick(speech, frames):
    """The rows of (B, L, D) speech that belong to (B, T) frames: (B, T, D)."""
    return speech.gather(1, frames[..., None].expand(-1, -1, speech.shape[-1]))


def redrawn(generator, batch):
    """Generates a batch's faces: (W, T, 3, H, W), the speech of its clips, (B, L, D), and of each face, (W, T, D).

    batch: see `data.collate`.
    """
    speech = generator.encode_audio(batch["audio"], batch["audio_padding"])
    said = pick(speech[batch["clip"]], batch["index"])
    return generator.generate(**{name: batch[name] for name in generator.inputs}, speech=said), speech, said


def set_stage(generator, hp, step):
    """Freezes what `step` does not train, in weights, dropout and layer drop: the audio encoder in TalkLip's stage 0,
    and in CALS' stage 2 where it does not go on training.

    Differs: the published code leaves a frozen audio encoder in train mode, with its dropout on: `faithful`.
    """
    generator.train()
    if hp.freeze_norms and step >= hp.lip_from:
        for module in generator.modules():
            if isinstance(module, Norm):
                module.eval()
    if hp.speech == "utterance":
        trains = step < hp.a2l_steps or hp.a2l_trains
        generator.speech.requires_grad_(trains).train(trains)
    if not hp.has_expert_encoder:
        return
    encoder, trains = generator.speech, step >= hp.audio_from
    encoder.requires_grad_(trains and not hp.audio_train_layers)
    encoder.train(trains or hp.faithful)
    for block in list(encoder.blocks)[-hp.audio_train_layers :] if trains else ():  # 0: all of them
        block.requires_grad_(True)


class TalkLip(Generator):
    """TalkLip's generator: (g) embeds the sound of the whole clip with a transformer, (l) 0.2 s at a time (hp.speech).

    `audio_map` is in no table, but in the published weights. `sync`, which `generate` does not use, maps speech into
    the space of the lip-reading expert (hp.sync_dim, if it is another size), see `project`.
    """

    def __init__(self, hp, speech=SPEECH, tables=None):
        super().__init__(hp, tables)
        if hp.speech == "global":
            sizes = (hp.audio_layers, hp.audio_dim, hp.audio_ffn, hp.audio_heads, hp.audio_dropout, hp.audio_layerdrop)
            self.speech, self.speech_size = AVHubert(*sizes), hp.audio_dim
        elif hp.speech == "whisper":  # Differs: not in the paper; the clip by features that have heard many voices
            self.speech, self.speech_size = SpeechRows(PAIR, hp.audio_dim), hp.audio_dim
        else:
            speech = narrow(speech, hp.width)
            self.speech, self.speech_size = LocalSpeech(speech), speech[-1].out
        self.audio_map = nn.Linear(self.speech_size, self.decoder[0][0].conv.in_channels)
        self.sync = nn.Linear(self.speech_size, hp.sync_dim or self.speech_size)

    def project(self, speech):
        """speech: (..., D), rows of `encode_audio`. Returns them in the space of the expert's features."""
        return self.sync(F.normalize(speech, dim=-1))


class Discriminator(nn.Module):
    """Discriminates real from generated mouths (table 4).

    Differs: returns logits, where the published one ends in a sigmoid; the losses put it back. It computes in the type
    of the faces, whatever autocast asks for: real and generated ones differ by less than what 16 bits can tell.
    """

    def __init__(self, hp, table=None):
        super().__init__()
        self.blocks = build(narrow(table or DISCRIMINATORS[hp.face_size], hp.width), cin=3)
        begin(self.blocks[-1][0], "linear")

    def region(self, faces):
        """The part of (N, 3, H, W) faces that is judged: their lower half, (N, 3, H / 2, W)."""
        return faces[:, :, faces.shape[2] // 2 :]

    def forward(self, faces):
        """faces: (B, T, 3, H, W) in [0, 1], RGB; only `region` is used. Returns (B*T, N) logits, here 1 a face."""
        x = in_format_of(self.blocks[0][0].conv.weight, self.region(faces.flatten(0, 1)))
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            for block in self.blocks:
                x = block(x)
        return x.flatten(1)  # (B*T, 1)


class PatchDiscriminator(Discriminator):
    """Discriminates real from generated patches of the mouth: whether it is sharp, not whether it is a mouth.

    Differs: not in the papers, whose discriminator has one verdict for a whole half face. Without norms: with batch
    norm faces would judge each other. It sees what is fine alone: of pictures as they are, which vary by people and
    light a hundred times as much as real and generated ones do, it learned nothing. Its loss is `hinge_loss`.
    """

    def __init__(self, hp, table=PATCH):
        super().__init__(hp, table)

    def region(self, faces):
        """The fine part of the middle of faces' lower half: (N, 3, H, W) -> (N, 3, H / 2, W / 2), about -1 to 1."""
        side = faces.shape[3] // 4
        part = super().region(faces)[..., side:-side]
        return FINE * (part - F.avg_pool2d(part, 5, 1, 2, count_include_pad=False))
