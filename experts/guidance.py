"""The lip-reading expert as a teacher: frozen, it reads clips in which some frames are drawn, and gradients pass it."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import distributed
from errors import InputError
from faces.mouth import splice
from losses import contrastive_loss, counter_examples, exact, published_contrastive_loss, reading_loss
from models.avhubert import STEM_FRAMES
from models.decoder import PAD


class LipExpert:
    """A frozen lip reader in eval mode. What it thinks of drawn faces can be differentiated; it never learns.

    reader: a `experts.lip_reader.TrainedLipReader` over an AVHubert, with a tokenizer.  device: where it computes.
    faithful: the gradient that leaves its video front end is scaled as its file says (published: 0.1).
    recompute: activations are computed again for the gradient: less memory, more time.
    Raises InputError for a lip reader of another kind.
    """

    def __init__(self, reader, device, faithful=False, recompute=False):
        if reader.hp.model != "avhubert" or reader.tokenizer is None:
            raise InputError(
                "--expert holds a lip reader of another kind: it has to be an avhubert that writes sentences"
            )
        self.hp, self.tokenizer, self.sha256 = reader.hp, reader.tokenizer, reader.about["sha256"]
        self.net = reader.net.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
        self.recompute = recompute
        if not faithful:
            self.net.encoder.grad_mult = 1.0

    def rois(self, fake, batch):
        """What the expert is shown: whole clips, the drawn faces pasted into their frames.

        fake: (W, T, 3, H, W) in [0, 1].  batch: see `data.collate`.
        Returns (B, L, 1, 88, 88), normalised, and the frames that a drawn one has a part in, (B, L) bool.
        """
        real, clip = batch["roi"], batch["clip"]
        at = clip[:, None] * real.shape[1] + batch["frames"]  # (W, T)
        roi = splice(real.flatten(0, 1), shrunk(fake), batch["to_face"], at).view_as(real)
        drawn = torch.zeros(real.shape[:2], device=real.device)
        drawn.view(-1)[at.flatten()] = 1
        near = F.max_pool1d(drawn[:, None], STEM_FRAMES, 1, STEM_FRAMES // 2)[:, 0] > 0
        video = self.net.normalised(roi, batch["roi_padding"])
        return video.to(self.net.encoder.fusion.weight.dtype), near

    def features(self, fake, batch):
        """The features of every frame of clips with drawn faces in them: (B, L, D), see `rois`.

        Only frames that a drawn one has a part in pass the video front end with gradients: the others, which are
        real, pass it without, and those after the end of a clip not at all. The result is the same.
        """
        video, near = self.rois(fake, batch)
        encoder, padding = self.net.encoder, batch["roi_padding"]
        stacks, near = encoder.video.stacks(video).flatten(0, 1), (near & ~padding).flatten()  # (B*L, 5, 88, 88)
        far = ~near & ~padding.flatten()
        drawn = self.again(encoder.video.features, stacks[near])
        with torch.no_grad():
            filmed = encoder.video.features(stacks[far].detach()) if far.any() else drawn[:0]
        seen = drawn.new_zeros(len(stacks), drawn.shape[1]).index_put((near,), drawn).index_put((far,), filmed)
        seen = seen.unflatten(0, padding.shape)  # (B, L, D)
        return self.again(lambda seen: encoder(seen=seen, padding=padding), seen)

    def again(self, part, x):
        """`part(x)`, whose activations are computed again for the gradient where that is asked for."""
        return checkpoint(part, x, use_reentrant=False) if self.recompute and x.requires_grad else part(x)

    def token_error(self, memory, batch):
        """The share of tokens that it reads wrong off `memory` when it is told all tokens before them."""
        text = batch["tokens"] != PAD
        read = self.net.decoder(batch["previous"], memory, batch["roi_padding"]).argmax(-1)
        return (read != batch["tokens"])[text].float().mean()

    def reading_loss(self, memory, batch, summed):
        """How badly the true words are read off `memory`, the features of `features`, under teacher forcing.

        summed: over all tokens of the batch, as published, instead of their mean. Returns a scalar in nats.
        """
        logits = self.net.decoder(batch["previous"], memory, batch["roi_padding"])
        return reading_loss(logits.float(), batch["tokens"], PAD, self.hp.label_smoothing, summed)

    def contrastive_loss(self, speech, memory, batch, published):
        """How badly drawn frames are matched with their sound, over the faces of all processes. A scalar in nats.

        speech: (W, T, D), see `TalkLip.project`.  memory: (B, L, D), see `features`.  published: with its own
        counter-examples.
        """
        clip, frames = batch["clip"][:, None].expand_as(batch["frames"]), batch["frames"]
        seen = memory[clip, frames].flatten(0, 1)
        clip = clip + distributed.rank()[0] * len(memory)  # a clip of its own in each process
        rows = (exact(speech).flatten(0, 1), exact(seen), clip.flatten(), frames.flatten())
        heard, seen, clip, frames = map(distributed.gathered, rows)
        if published:
            others = distributed.from_first(counter_examples(len(heard)).to(heard.device))
            return published_contrastive_loss(heard, seen, others)
        return contrastive_loss(heard, seen, clip, frames)


def shrunk(fake, px=96):
    """Faces that are larger than the ROI's own scale brought to it, without aliasing; the others as they are.

    fake: (W, T, 3, H, W). Differs: the published code draws 96 px only, and resizes without care for aliasing.
    """
    if fake.shape[-1] <= px:
        return fake
    small = F.interpolate(fake.flatten(0, 1), size=(px, px), mode="bilinear", antialias=True, align_corners=False)
    return small.unflatten(0, fake.shape[:2])
