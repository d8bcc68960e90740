"""One update of a generator: all its losses, the discriminator, the expert; on one process or many."""

import math

import torch

import ranks
from losses import adversarial_loss, exact, lips_loss, mouth_loss, pixel_loss
from models.talklip import pick
from text import PAD


def generator_losses(nets, batch, weights, hp, expert=None):
    """Draws a batch's faces, and what is wrong with them: (fake (W, T, 3, H, W), {name: scalar} of what has a weight).

    Each loss is such that its mean over all processes is that of their batches joined.
    """
    generator, faces = nets["generator"], batch["index"].numel()
    speech = generator.listen(batch["audio"], batch["padding"])  # (B, L, D)
    heard = pick(speech[batch["clip"]], batch["index"])  # (W, T, D)
    fake, real = generator.draw(batch["face"], heard), batch["target"]  # (W, T, 3, H, W)
    guided = weights["lip"] or weights["contrastive"]
    memory = expert.look(fake, batch) if guided else None  # (B, L, D)
    weigh, published = ranks.weight, hp.faithful
    heard_rows, tokens = ~batch["padding"], batch.get("tokens")
    terms = {
        "l1": lambda: weigh(faces) * pixel_loss(fake, real),
        "mouth": lambda: weigh(batch["mouth"].sum()) * mouth_loss(fake, real, batch["mouth"]),
        "lips": lambda: weigh(heard_rows.sum()) * lips_loss(exact(nets["lips"](speech)), batch["lips"], ~heard_rows),
        "adv": lambda: weigh(faces) * adversarial_loss(exact(nets["discriminator"](fake)), True, published),
        "lip": lambda: (
            weigh(None if hp.lip_sum else (tokens != PAD).sum()) * expert.reading_loss(memory, batch, hp.lip_sum)
        ),
        "contrastive": lambda: expert.contrastive_loss(generator.compare(heard), memory, batch, published),
    }
    return fake, {name: terms[name]() for name, weight in weights.items() if weight > 0}


def add_gradients(nets, batch, weights, hp, expert, share):
    """Adds `share` of a batch's gradients to both networks. Returns every loss, detached.

    Differs: the published code lets the generator's adversarial gradient leak into the discriminator's update:
    `faithful`.
    """
    real, discriminator = batch["target"], nets["discriminator"]
    discriminator.requires_grad_(hp.faithful)
    with torch.autocast(real.device.type, torch.bfloat16, enabled=hp.amp):
        fake, losses = generator_losses(nets, batch, weights, hp, expert)
    losses["total"] = sum(weights[name] * loss for name, loss in losses.items())
    (share * losses["total"]).backward()
    discriminator.requires_grad_(True)
    if weights["adv"] > 0:
        weight = ranks.weight(batch["index"].numel())
        with torch.autocast(real.device.type, torch.bfloat16, enabled=hp.amp):
            for name, faces in (("d_real", real), ("d_fake", fake.detach())):
                verdict = exact(discriminator(faces))
                losses[name] = weight * adversarial_loss(verdict, faces is real, hp.faithful)
        (share * (losses["d_real"] + losses["d_fake"])).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def train_step(nets, optims, batches, weights, hp, expert=None):
    """Updates the generator, and the discriminator where the adversarial loss is on, once.

    batches: one, or more whose gradients are gathered; each has batch norms of its own.
    Returns every loss, the mean over batches and processes, and the generator's gradient norm, detached, for the log.
    """
    for optim in optims.values():
        optim.zero_grad(set_to_none=True)
    found = [add_gradients(nets, batch, weights, hp, expert, 1 / len(batches)) for batch in batches]
    losses = ranks.means({name: sum(each[name] for each in found) / len(found) for name in found[0]})
    for optim in optims.values():
        ranks.share_gradients(weight for group in optim.param_groups for weight in group["params"])
    losses["grad_norm"] = torch.nn.utils.clip_grad_norm_(nets["generator"].parameters(), hp.clip_norm or math.inf)
    optims["generator"].step()
    if weights["adv"] > 0:
        optims["discriminator"].step()
    return losses
