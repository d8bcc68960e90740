"""One update of a generator: all its losses, the discriminator, the expert; of one batch or many, on many processes."""

import math
from collections import defaultdict

import torch

import distributed
from losses import adversarial_loss, exact, lips_loss, mouth_loss, pixel_loss
from models.decoder import PAD
from models.talklip import pick


def shares(batches, hp):
    """What each batch's losses are multiplied by, to make up the losses of all batches of all processes joined.

    The sum over batches, and the mean over processes, of what is multiplied is then the joined loss: for a mean over
    faces, pixels, rows or tokens in the measure of how many of them a batch has. Contrastive losses compare the faces
    of one batch, of all processes: theirs is the mean of those of the batches.
    Returns {name: scalar} for each batch; any other loss is taken for a mean over faces.
    """

    def counts(batch):
        faces, mouth, rows = torch.ones_like(batch["index"]), batch["mouth"], ~batch["padding"]
        tokens = batch["tokens"] != PAD if "tokens" in batch else rows[:0]
        return torch.stack([each.sum().float() for each in (faces, mouth, rows, tokens)])

    world = distributed.rank()[1]
    counted = torch.stack([counts(batch) for batch in batches])  # (N, 4)
    parts = world * counted / distributed.total(counted.sum(0)).clamp(min=1e-9)
    found = []
    for faces, mouth, rows, tokens in parts:
        own = {"mouth": mouth, "lips": rows, "lip": world if hp.lip_sum else tokens, "contrastive": 1 / len(batches)}
        found.append(defaultdict(lambda faces=faces: faces, own))
    return found


def generator_losses(nets, batch, weights, hp, expert=None):
    """Draws a batch's faces, and finds what is wrong with them.

    Returns fake, (W, T, 3, H, W) in [0, 1], and {name: scalar} of the losses that have a weight.
    """
    generator = nets["generator"]
    speech = generator.listen(batch["audio"], batch["padding"])  # (B, L, D)
    heard = pick(speech[batch["clip"]], batch["index"])  # (W, T, D)
    fake, real = generator.draw(batch["face"], heard), batch["target"]  # (W, T, 3, H, W)
    guided = weights["lip"] or weights["contrastive"]
    memory = expert.look(fake, batch) if guided else None  # (B, L, D)
    terms = {
        "l1": lambda: pixel_loss(fake, real),
        "mouth": lambda: mouth_loss(fake, real, batch["mouth"]),
        "lips": lambda: lips_loss(exact(nets["lips"](speech)), batch["lips"], batch["padding"]),
        "adv": lambda: adversarial_loss(exact(nets["discriminator"](fake)), True, hp.faithful),
        "lip": lambda: expert.reading_loss(memory, batch, hp.lip_sum),
        "contrastive": lambda: expert.contrastive_loss(generator.compare(heard), memory, batch, hp.faithful),
    }
    return fake, {name: terms[name]() for name, weight in weights.items() if weight > 0}


def discriminator_losses(discriminator, fake, real, hp):
    """How badly real faces are taken for drawn ones, and drawn for real: {name: scalar}."""
    pairs = ("d_real", real, True), ("d_fake", fake.detach(), False)
    return {name: adversarial_loss(exact(discriminator(faces)), wished, hp.faithful) for name, faces, wished in pairs}


def add_gradients(nets, batch, weights, hp, expert, share):
    """Adds a batch's gradients to both networks. Returns every loss times its `share`, detached.

    Differs: the published code lets the generator's adversarial gradient leak into the discriminator's update:
    `faithful`.
    """
    discriminator, autocast = nets["discriminator"], {"dtype": torch.bfloat16, "enabled": hp.amp}
    discriminator.requires_grad_(hp.faithful)
    with torch.autocast(batch["face"].device.type, **autocast):
        fake, losses = generator_losses(nets, batch, weights, hp, expert)
    losses = {name: share[name] * loss for name, loss in losses.items()}
    losses["total"] = sum(weights[name] * loss for name, loss in losses.items())
    losses["total"].backward()
    discriminator.requires_grad_(True)
    if weights["adv"] > 0:
        with torch.autocast(batch["face"].device.type, **autocast):
            judged = discriminator_losses(discriminator, fake, batch["target"], hp)
        losses |= {name: share[name] * loss for name, loss in judged.items()}
        (losses["d_real"] + losses["d_fake"]).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def train_step(nets, optims, batches, weights, hp, expert=None):
    """Updates the generator, and the discriminator where the adversarial loss is on, once.

    batches: one, or more whose gradients are gathered; each has batch norms of its own.
    Returns every loss, of all batches and processes joined, and the generator's gradient norm, detached, for the log.
    """
    for optim in optims.values():
        optim.zero_grad(set_to_none=True)
    parts = zip(batches, shares(batches, hp), strict=True)
    found = [add_gradients(nets, batch, weights, hp, expert, share) for batch, share in parts]
    losses = distributed.means({name: sum(each[name] for each in found) for name in found[0]})
    for optim in optims.values():
        distributed.share_gradients(weight for group in optim.param_groups for weight in group["params"])
    losses["grad_norm"] = torch.nn.utils.clip_grad_norm_(nets["generator"].parameters(), hp.clip_norm or math.inf)
    optims["generator"].step()
    if weights["adv"] > 0:
        optims["discriminator"].step()
    return losses
