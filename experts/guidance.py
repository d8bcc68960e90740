"""The lip-reading expert in the generator's training: frozen, it reads clips of which some frames are generated."""

import shlex

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import distributed
from errors import InputError
from experts.lip_reader import load_reader
from faces.mouth import splice
from hparams import WEIGHTS
from losses import cav_loss, contrastive_loss, counter_examples, exact, published_contrastive_loss, reading_loss
from models.avhubert import STEM_FRAMES
from models.decoder import PAD
from models.talklip import pick


class LipExpert:
    """A frozen lip reader in eval mode. Its losses of generated faces have gradients; its weights never change.

    reader: an `experts.lip_reader.TrainedLipReader` over an AVHubert, with a tokenizer.  device: where it computes.
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
        """The expert's input: whole clips, the generated faces pasted into their frames.

        fake: (W, T, 3, H, W) in [0, 1].  batch: see `data.collate`.
        Returns (B, L, 1, 88, 88), normalised, and the frames whose features depend on a generated one, (B, L) bool.
        """
        real, clip = batch["roi"], batch["clip"]
        at = clip[:, None] * real.shape[1] + batch["frames"]  # (W, T)
        roi = splice(real.flatten(0, 1), shrunk(fake, 128 if "points" in batch else 96), batch["to_face"], at).view_as(
            real
        )
        generated = torch.zeros(real.shape[:2], device=real.device)
        generated.view(-1)[at.flatten()] = 1
        near = F.max_pool1d(generated[:, None], STEM_FRAMES, 1, STEM_FRAMES // 2)[:, 0] > 0
        video = self.net.normalised(roi, batch["roi_padding"])
        return video.to(self.net.encoder.fusion.weight.dtype), near

    def features(self, fake, batch):
        """The features of every frame of clips with generated faces in them: (B, L, D), see `rois`.

        Only frames whose features depend on a generated one pass the video front end with gradients: the others, which
        are real, pass it without, and those after the end of a clip not at all. The result is the same.
        """
        video, near = self.rois(fake, batch)
        encoder, padding = self.net.encoder, batch["roi_padding"]
        stacks, near = encoder.video.stacks(video).flatten(0, 1), (near & ~padding).flatten()  # (B*L, 5, 88, 88)
        far = ~near & ~padding.flatten()
        generated = self.again(encoder.video.features, stacks[near])
        with torch.no_grad():
            real = encoder.video.features(stacks[far].detach()) if far.any() else generated[:0]
        rows = generated.new_zeros(len(stacks), generated.shape[1])
        rows = rows.index_put((near,), generated).index_put((far,), real)
        features = rows.unflatten(0, padding.shape)  # (B, L, D)
        return self.again(lambda x: encoder(video_features=x, padding=padding), features)

    def again(self, part, x):
        """`part(x)`, whose activations are computed again for the gradient where that is asked for."""
        return checkpoint(part, x, use_reentrant=False) if self.recompute and x.requires_grad else part(x)

    def token_error(self, memory, batch):
        """The share of tokens that it reads wrong off `memory`, given all tokens before them."""
        text = batch["tokens"] != PAD
        read = self.net.decoder(batch["previous"], memory, batch["roi_padding"]).argmax(-1)
        return (read != batch["tokens"])[text].float().mean()

    def scores(self, fake, batch):
        """Scores of a validation clip of which every frame is generated: {name: number}.

        lip: its loss, in nats per token.  token_error: the share of tokens that it gets wrong, given those before.
        """
        memory = self.features(fake, batch)
        lip, error = self.reading_loss(memory, batch, False), self.token_error(memory, batch)
        return {"lip": lip.item(), "token_error": error.item()}

    def reading_loss(self, memory, batch, summed):
        """The lip-reading loss of the true words, given `memory`, the output of `features`, under teacher forcing.

        summed: over all tokens of the batch, as published, instead of their mean. Returns a scalar in nats.
        """
        logits = self.net.decoder(batch["previous"], memory, batch["roi_padding"])
        return reading_loss(logits.float(), batch["tokens"], PAD, self.hp.label_smoothing, summed)

    def contrastive_loss(self, speech, memory, batch, published):
        """The contrastive loss of generated frames and their sound, over the faces of all processes: a scalar in nats.

        speech: (W, T, D), see `TalkLip.project`.  memory: (B, L, D), see `features`.  published: with its own
        counter-examples.
        """
        clip, frames = batch["clip"][:, None].expand_as(batch["frames"]), batch["frames"]
        video = memory[clip, frames].flatten(0, 1)
        clip = clip + distributed.rank()[0] * len(memory)  # a clip of its own in each process
        rows = (exact(speech).flatten(0, 1), exact(video), clip.flatten(), frames.flatten())
        audio, video, clip, frames = map(distributed.gathered, rows)
        if published:
            others = distributed.from_first(counter_examples(len(audio)).to(audio.device))
            return published_contrastive_loss(audio, video, others)
        return contrastive_loss(audio, video, clip, frames)

    @torch.no_grad()
    def embed_sound(self, batch):
        """What its encoder makes of the clips' sound alone: (B, L, D). No gradient comes back from it."""
        audio = batch["audio"].to(self.net.encoder.fusion.weight.dtype)
        return self.net.encode(None, batch["audio_padding"], audio)

    def cav_loss(self, speech, memory, batch, hp):
        """SyncTalklip's contrastive loss of generated frames and their sound (eq. 12): a scalar.

        Negatives are of a frame's own clip, so that no other process has any.
        speech: (B, L, D), what the generator's audio encoder makes of the clips. With `cav_audio` "frozen" (variant
        freeze) what this expert's does takes its place, and the loss reaches the generated faces alone.
        memory: (B, L, D), see `features`.
        """

        def rows(features, padding, at):
            """(B, L, D) -> (N, D), those of the generated frames, in the space in which they are compared."""
            return pick(self.net.align(features, padding)[batch["clip"]], at).flatten(0, 1)

        video = rows(memory, batch["roi_padding"], batch["frames"])
        heard = {"tuned": speech}
        if hp.cav_audio == "frozen" or hp.cav_negatives == "audio":
            heard["frozen"] = self.embed_sound(batch)
        heard = {name: rows(each, batch["audio_padding"], batch["index"]) for name, each in heard.items()}
        negatives = heard["frozen"] if hp.cav_negatives == "audio" else video
        clips = batch["clip"][:, None].expand_as(batch["frames"]).flatten()
        places = clips, batch["frames"].flatten()
        return cav_loss(heard[hp.cav_audio], video, negatives, *places, hp.cav_scale, hp.cav_apart, hp.cav_sum)

    def check(self, generator, hp):
        """Raises InputError for a generator whose sound is not in the space of this expert's features."""
        if hp.contrastive_weight and (size := generator.sync.out_features) != self.hp.dim:
            other = f"the --expert has features of {self.hp.dim}, sound is projected to {size}"
            raise InputError(f"{other}: say --sync_dim {self.hp.dim}")
        if hp.cav_weight and generator.speech_size != self.hp.dim:
            other = f"--cav_weight compares features of {generator.speech_size}, --audio_dim, with the --expert's"
            raise InputError(f"{other}, which have {self.hp.dim}: both have to be of one size")


def lip_expert_of(path, hp, device, data_root):
    """The `LipExpert` that a run with the knobs `hp` will need, from the file at `path`, and the reader it is made of.

    (None, None) for a run without. Raises InputError for one that is not the `supervisor` which the knobs ask for.
    """
    if not hp.guided or (hp.lip_from >= hp.max_steps and not hp.patience):
        return None, None
    reader = load_reader(path, roi=None if hp.roi == "own" else hp.roi)
    found = "avhubert" if not reader.hp.align_weight else "conv" if reader.hp.align_kernel > 1 else "avsyncnet"
    if hp.supervisor not in ("any", found):
        kinds = {"avhubert": "an AV-HuBERT", "avsyncnet": "an AV-SyncNet", "conv": "an AV-SyncNet (conv)"}
        name = ("" if hp.width == 1 else "compact_") + ("avsyncnet_conv" if hp.supervisor == "conv" else "avsyncnet")
        begun, root = "PRETRAINED" if hp.width == 1 else WEIGHTS["expert"], shlex.quote(str(data_root))
        how = f"python train_expert.py finetune --preset {name} --data_root {root} --name {name} --init {begun}"
        how = "" if hp.supervisor == "avhubert" else f". To train one: {how} --export {name}.safetensors"
        raise InputError(f"--expert {path} is {kinds[found]}, this run wants {kinds[hp.supervisor]}{how}")
    return LipExpert(reader, device, hp.faithful, hp.recompute), reader


def shrunk(fake, px=96):
    """Faces that are larger than the ROI's own scale brought to it, without aliasing; the others as they are.

    fake: (W, T, 3, H, W).  px: its side at that scale.
    Differs: the published code generates 96 px only, and resizes without care for aliasing.
    """
    if fake.shape[-1] <= px:
        return fake
    small = F.interpolate(fake.flatten(0, 1), size=(px, px), mode="bilinear", antialias=True, align_corners=False)
    return small.unflatten(0, fake.shape[:2])
