"""The losses of the papers, one function each; none of them knows a network."""

import torch
import torch.nn.functional as F

TEMPERATURE = 0.07  # of the contrastive losses
APART = 3  # frames between counter-examples of TalkLip's
MOST_OTHERS = 100
MOST_ADV_WEIGHT = 100.0
SURE = 1e-6  # how near to 0 and 1 a probability may come whose logarithm is taken


def exact(x):
    """`x` in 32 bits at least, as logarithms and sums of many want it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel_loss(fake, real):
    """Mean absolute error of all pixels (TalkLip's reconstruction loss; SyncTalklip, eq. 7).

    fake, real: (B, T, 3, H, W) in [0, 1].
    Returns a scalar in units of full scale.
    Differs: eq. 7 prints the sum over a face's pixels, which grows with faces: the term "rec", 27,648 times as large.
    """
    return F.l1_loss(fake, real)


def mouth_loss(fake, real, mask):
    """Mean absolute error of the pixels inside the mouth region.

    fake, real: (B, T, 3, H, W) in [0, 1].
    mask: (B, T, 1, H, W) in [0, 1], 1 where the mouth is. A clip whose mask is empty adds nothing.
    Returns a scalar in units of full scale.
    Differs: not in the papers. At compact sizes and few steps it lets the mouth, a tenth of the pixels, lead.
    """
    return ((fake - real).abs() * mask).sum() / (mask.sum() * fake.shape[2]).clamp(min=1)


def detail_loss(fake, real, levels=3):
    """Mean absolute error of the levels of a Laplacian pyramid: what is too smooth or out of place (Bojanowski 2018).

    fake, real: (B, T, 3, H, W) in [0, 1].  levels: each of half the size of the one before.
    Returns a scalar in units of full scale, the sum over levels.
    Differs: there each level weighs 4^j; here the finest counts as much as the others.
    """
    rest, found = (fake - real).flatten(0, 1), 0.0  # a pyramid is linear: that of the difference
    for _ in range(levels):
        small = F.avg_pool2d(rest, 2)
        smooth = F.interpolate(small, size=rest.shape[-2:], mode="bilinear", align_corners=False)
        found, rest = found + (rest - smooth).abs().mean(), small
    return found


def motion_loss(fake, real, mask):
    """Mean absolute error, inside the mouth region, of the change from each frame to the next: trembling, or none.

    fake, real, mask: as in `mouth_loss`, T consecutive frames. Returns a scalar in units of full scale; of one frame 0.
    """
    error = (fake[:, 1:] - fake[:, :-1]) - (real[:, 1:] - real[:, :-1])
    mask = mask[:, 1:]
    return (error.abs() * mask).sum() / (mask.sum() * fake.shape[2]).clamp(min=1)


def adversarial_loss(logits, real, published=False):
    """Binary cross-entropy of the discriminator's scores, against all real or all fake.

    logits: (N, 1), positive for real. real: what they should be, True or False.
    Returns a scalar in nats; ln 2 = 0.69 is chance.
    Differs: the published one takes sigmoid outputs, whose logarithm is cut at 100 and then has no gradient.
    """
    target = torch.full_like(logits, float(real))
    if published:
        with torch.autocast(logits.device.type, enabled=False):  # in 16 bits it would be refused
            return F.binary_cross_entropy(logits.sigmoid(), target)
    return F.binary_cross_entropy_with_logits(logits, target)


def hinge_loss(logits, real=None):
    """Hinge loss of scores that ask for no more than a margin of 1 on the right side of 0 (Lim & Ye 2017).

    logits: positive for real. real: what the discriminator's should be, True or False; None: the generator's loss,
    whose gradient is the same however sure the discriminator is.
    Returns a scalar in logits; of a discriminator that knows nothing 1.
    """
    if real is None:
        return -logits.mean()
    return F.relu(1 - logits if real else 1 + logits).mean()


def printed_adversarial_loss(logits, real=None):
    """The adversarial losses as SyncTalklip prints them: the generator's (eq. 8), the discriminator's terms (eq. 9).

    logits, real: as in `hinge_loss`. Returns a scalar in nats, never above 0.
    Differs: `adversarial_loss`, which takes its place unless this is asked for, wants the same. Here the generator has
    no gradient where the discriminator is sure, and the discriminator's loss has no lower end. Eq. 10 adds both up: of
    generated faces that would cancel at a verdict of 1/2, so each network is given its own part.
    """
    return F.logsigmoid(logits if real is False else -logits).mean()


def verdict_loss(logits, hp, real=None):
    """The loss of a discriminator's verdicts, by its kind.

    hp: has `discriminator`, its kind, `faithful` and `adv_form`.  logits, real: as above; None: of what the generator
    wants.
    """
    if hp.discriminator == "patch":
        return hinge_loss(logits, real)
    if hp.adv_form == "printed":
        return printed_adversarial_loss(logits, real)
    return adversarial_loss(logits, real is not False, hp.faithful)


def balanced_weight(others, adversarial, ratio):
    """The weight that makes the adversarial gradient `ratio` times as long as that of the others (Esser 2021, eq. 7).

    others, adversarial: scalars, the lengths of both gradients.
    Returns a scalar, at most `MOST_ADV_WEIGHT`: the noise of a discriminator that knows nothing is not made loud.
    Differs: there the gradients are those at the generator's last layer, and the weight is at most 10,000.
    """
    least = torch.finfo(adversarial.dtype).tiny
    return (ratio * others / adversarial.clamp(min=least)).clamp(max=MOST_ADV_WEIGHT)


def without_neighbours(scores, clips, frames, apart):
    """Scores of rows for columns of the same N frames, -inf where both are of one clip and less than `apart` frames
    from one another: they show nearly the same, so that they are no counter-examples. Each frame's own score stays.

    scores: (N, N).  clips, frames: (N,) int64, where they come from.
    """
    near = (clips[:, None] == clips) & ((frames[:, None] - frames).abs() < apart)
    return scores.masked_fill(near & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)


def contrastive_loss(audio, video, clips, frames):
    """Matching of generated frames with their sound: InfoNCE, from sound to lips and from lips to sound.

    audio: (N, D), speech at N generated frames, in the expert's space.  video: (N, D), its features of these frames.
    clips, frames: (N,) int64, where they come from, see `without_neighbours`.
    Returns a scalar in nats.
    Differs: the published one is `published_contrastive_loss`, whose counter-examples are other sounds.
    """
    with torch.autocast(audio.device.type, enabled=False):  # 16 bits are too few for a cosine by 0.07
        scores = F.normalize(audio, dim=-1) @ F.normalize(video, dim=-1).T / TEMPERATURE  # (N, N)
    scores = without_neighbours(scores, clips, frames, APART)
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def published_contrastive_loss(audio, video, others):
    """TalkLip's contrastive loss as its code has it: a frame's lips, or the sound of other frames, for its own sound.

    audio, video: (N, D), as above.  others: (N, K) int64, the rows of `audio` that are counter-examples of each row.
    Returns a scalar in nats; 0 without counter-examples.
    """
    audio, video = F.normalize(audio, dim=-1), F.normalize(video, dim=-1)
    right = (audio * video).sum(-1, keepdim=True)  # (N, 1)
    wrong = (audio[:, None] * audio[others]).sum(-1)  # (N, K)
    scores = torch.cat([right, wrong], dim=1) / TEMPERATURE
    return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))


def counter_examples(count):
    """Other rows at random for each of `count` rows, 100 and half of them at most: (count, K) int64, as published."""
    chosen = min(MOST_OTHERS, count // 2)
    if not chosen:
        return torch.zeros(count, 0, dtype=torch.long)
    return torch.multinomial(1 - torch.eye(count), chosen)


def l1_distance(a, b, scale=0.0):
    """L1 distance of features times a fixed number: theta of SyncTalklip's eq. 11, and what eq. 5 takes the mean of.

    a, b: (..., D).  scale: tau and F in one; 0: 1 / D, which makes it a mean over D.
    Returns (...), never below 0, in 32 bits at least.
    Differs: F is printed as a linear layer. Trained, its slope would turn, and the losses run to minus infinity.
    """
    return (exact(a) - exact(b)).abs().sum(-1) * (scale or 1 / a.shape[-1])


def cav_loss(audio, video, negatives, clips, frames, scale, apart, summed=False):
    """L1 contrastive loss: a frame's sound near its lips, and away from other frames of its clip (SyncTalklip, eq. 12).

    audio, video: (N, D), of N generated frames.  negatives: (N, D), what the sound is driven away from: `video` as
    printed, or other sounds, as the released code has it.  scale: see `l1_distance`.
    clips, frames: (N,) int64, where they come from. Frames less than `apart` (printed: 1) from one another in a clip
    are no negatives of each other: at the loss's lower end, all that are have been driven apart.
    Returns a scalar, a mean over frames; `summed`, as printed, it grows with N. It is not below minus the mean distance
    of `video` to its negatives, so it has an end only where these have one, as behind a frozen layer norm.
    Differs: Upsilon is printed as the frame alone, which divides by 0. Here it is all generated frames of the clip; a
    frame without negatives has the first term alone.
    """
    with torch.autocast(audio.device.type, enabled=False):
        away = torch.cdist(exact(audio), exact(negatives), p=1) * (scale or 1 / audio.shape[-1])  # (N, N)
        others = (clips[:, None] == clips) & ((frames[:, None] - frames).abs() >= apart)
        each = l1_distance(audio, video, scale) - (away * others).sum(1) / others.sum(1).clamp(min=1)
    return each.sum() if summed else each.mean()


def lips_loss(predicted, lips, padding):
    """Smooth L1 error of the lips' outline, predicted from the speech embedding alone.

    predicted, lips: (B, L, N), the predicted and the true shape, relative to the lips at rest: see `faces.shape`.
    padding: (B, L) bool, True after the end of a clip, which is left out.
    Returns a scalar.
    Differs: not in the papers, which begin with an audio encoder that a lip-reading expert has trained. Without one,
    this trains it in every frame of a clip, where the pixel losses have only the few that are generated.
    """
    error = F.smooth_l1_loss(predicted, lips, reduction="none").mean(-1)
    return error.masked_fill(padding, 0).sum() / (~padding).sum()


def cluster_loss(scores, clusters, weights):
    """Cross-entropy of the predicted clusters of frames (HuBERT eq. 1; seed 003, eq. 3).

    scores:   (B, T, V) for V clusters.  clusters: (B, T) int64, the targets, -1 where there is none.
    weights:  (B, T): 1 for masked frames, as published 0 for others.
    Returns a scalar in nats per weighted frame.
    """
    loss = F.cross_entropy(scores.flatten(0, 1), clusters.flatten(), ignore_index=-1, reduction="none")
    weights = weights.flatten() * (clusters.flatten() >= 0)
    return (loss * weights).sum() / weights.sum().clamp(min=1)


def reading_loss(logits, tokens, pad, smoothing=0.0, summed=False):
    """Cross-entropy of the next tokens, with label smoothing: what AV-HuBERT is fine-tuned with.

    Given the scores of the lip-reading expert for generated mouths, this is TalkLip's lip-reading loss.
    logits: (B, N, V), under teacher forcing.  tokens: (B, N) int64; `pad` marks what is no text.
    smoothing: the share of the probability that all tokens but the right one share evenly.
    summed: TalkLip's published form, a sum over all tokens of the batch, which grows with the batch.
    Returns a scalar in nats per token, `summed` in nats; 0 where there is no text at all.
    """
    logs = logits.log_softmax(-1)
    text = tokens != pad
    right = -logs.gather(-1, tokens[..., None])[..., 0][text]
    each = smoothing / (logits.shape[-1] - 1)
    loss = ((1 - smoothing - each) * right - each * logs.sum(-1)[text]).sum()
    return loss if summed else loss / text.sum().clamp(min=1)


def ctc_loss(logits, tokens, frames, lengths, blank=0):
    """Connectionist temporal classification: tokens predicted frame by frame, at unknown times.

    logits: (B, T, V).  tokens: (B, N) int64, of which the first `lengths` (B,) of each clip count.
    frames: (B,) the frames of each clip.  blank: the token for "nothing new".
    Returns a scalar in nats per token.
    """
    logs = logits.log_softmax(-1).transpose(0, 1)  # (T, B, V)
    loss = F.ctc_loss(logs, tokens, frames, lengths, blank=blank, reduction="none", zero_infinity=True)
    return (loss / lengths).mean()


def pair_loss(video, audio, paired):
    """Binary cross-entropy of pairs of lips and sound, whose cosine is the probability that they belong together.

    With all of them paired it is the sync loss of generated lips (Wav2Lip, sec. 3).
    video, audio: (N, D) of length 1, none of their values below 0, so that their cosine is in [0, 1].
    paired: (N,) bool, whether both are of the same 0.2 s.
    Returns a scalar in nats, in 32 bits at least; 0 of no pair.
    Differs: published, logarithms are cut at 100 nats; here probabilities stay `SURE` away from 0 and 1, where the
    gradient would be endless.
    """
    with torch.autocast(video.device.type, enabled=False):  # in 16 bits it would be refused
        cosine = (exact(video) * exact(audio)).sum(-1).clamp(SURE, 1 - SURE)
        found = F.binary_cross_entropy(cosine, paired.to(cosine.dtype), reduction="sum")
    return found / max(len(paired), 1)


def matching_loss(video, audio, temperature, others=None):
    """InfoNCE between windows of lips and of sound, both ways: each against all windows of the other.

    video, audio: (N, D) of length 1: row i of both is of the same 0.2 s; all other rows are its negatives.
    others: (K, D) of length 1, more sounds, which belong to none of these lips, or None.
    Returns a scalar in nats, 0 of no window; without `others` ln N is chance.
    Differs: the papers' sync experts score one pair at a time (`pair_loss`), which long stays at chance; here each
    window has as many negatives as the batch has windows.
    """
    if not len(video):
        return video.sum()
    sounds = audio if others is None else torch.cat([audio, others])
    similarity = video @ sounds.T / temperature  # (N, N + K)
    own = torch.arange(len(video), device=video.device)
    back = similarity[:, : len(own)].T
    return (F.cross_entropy(similarity, own) + F.cross_entropy(back, own)) / 2


def a2l_loss(predicted, units, masked, summed=False):
    """Squared error of the lip-motion units of masked frames, predicted from the sound around them (CALS, L_a2l).

    predicted, units: (B, L, D).  masked: (B, L) bool, the frames that count; heard ones too with `a2l_heard`.
    summed: over frames and over the numbers of a unit, as printed, so that it grows with both, instead of their mean.
    Returns a scalar; 0 where no frame is masked.
    """
    error = (exact(predicted) - exact(units))[masked].square().sum()
    return error if summed else error / (masked.sum() * units.shape[-1]).clamp(min=1)


def cals_sync_loss(lips, own, clips, frames, temperature, apart):
    """Generated lips have to find what is their own among that of others: CALS' d_vv, and d_av.

    lips: (N, D), F_v of generated lips.  own: (N, D), of the same frames F_v of the real lips (d_vv), or F_a of the
    sound (d_av, which the poster does not give: ours is d_vv with the sound in place of the real lips).
    clips, frames: (N,) int64, where they come from.  temperature: what cosines are divided by; printed 1: then of one
    own cosine of 1 among 31 of 0.9 the loss is 3.37 nats, where chance is 3.47; at 0.07 it is 2.13.
    apart: frames; nearer ones of a clip are no counter-examples. The printed sum has no such exception.
    Returns a scalar in nats; 0 of no row.
    """
    if not len(lips):
        return lips.sum()
    with torch.autocast(lips.device.type, enabled=False):
        scores = F.normalize(exact(lips), dim=-1) @ F.normalize(exact(own), dim=-1).T / temperature  # (N, N)
    scores = without_neighbours(scores, clips, frames, apart)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
