"""When what trains: the weights of the losses, the step size and the stages of a generator's run, by step."""

import math

from models.layers import Norm


def loss_weights(hp, step):
    """The weight of each loss at `step`; one that is 0 is not computed."""
    guided = step >= hp.lip_from
    return {
        "l1": hp.l1_weight,
        "mouth": hp.mouth_weight,
        "lips": hp.lips_weight,
        "adv": hp.adv_weight if step >= hp.adv_from else 0.0,
        "lip": hp.lip_weight if guided else 0.0,
        "contrastive": hp.contrastive_weight if guided else 0.0,
    }


def learning_rate(hp, step):
    """Adam's step size at `step`: a linear rise, flat, then half a cosine down to 0."""
    rise = min(1.0, (step + 1) / max(hp.warmup, 1))
    start = hp.decay_from * hp.max_steps
    share = min(max((step - start) / max(hp.max_steps - start, 1), 0.0), 1.0)
    return hp.lr * rise * (1 + math.cos(math.pi * share)) / 2


def set_stage(generator, hp, step):
    """Freezes what `step` does not train (stage 0: the audio encoder), in weights, dropout and layer drop.

    Differs: the published code leaves a frozen audio encoder in train mode, with its dropout on: `faithful`.
    """
    generator.train()
    if hp.freeze_norms and step >= hp.lip_from:
        for module in generator.modules():
            if isinstance(module, Norm):
                module.eval()
    if hp.speech == "local":
        return
    encoder, hears = generator.speech, step >= hp.audio_from
    encoder.requires_grad_(hears and not hp.audio_train_layers)
    encoder.train(hears or hp.faithful)
    for block in list(encoder.blocks)[-hp.audio_train_layers :] if hears else ():
        block.requires_grad_(True)


def stage_plan(hp):
    """The schedule in words, one line per stage, as it is printed at the start of a run. hp: see `Run.now`."""
    parts = [(0, "generator under " + " + ".join(name for name, weight in loss_weights(hp, 0).items() if weight))]
    if hp.adv_weight:
        parts.append((hp.adv_from, f"discriminator, adversarial loss x {hp.adv_weight}"))
    if hp.speech == "global":
        what = f"top {hp.audio_train_layers} blocks" if hp.audio_train_layers else "all"
        parts.append((hp.audio_from, f"audio encoder trains ({what})"))
    later = []
    if hp.guided:
        later.append(f"lip-reading loss x {hp.lip_weight:g} ({'sum' if hp.lip_sum else 'mean'} over tokens)")
    if hp.guided and hp.contrastive_weight:
        later.append(f"contrastive loss x {hp.contrastive_weight:g}")
    if hp.freeze_norms:
        later.append("batch norms keep their statistics")
    if later:
        parts.append((hp.lip_from, ", ".join(later)))
    starts = sorted({start for start, _ in parts if start < hp.max_steps})
    lines = [f"from step {start}: {', '.join(what for at, what in parts if at == start)}" for start in starts]
    if hp.patience:
        lines += [f"then, at a plateau: {what}" for start, what in parts if start == hp.max_steps]
        least = (hp.patience + 1) * hp.valid_every
        lines.append(f"a plateau is more than {hp.patience} validations without a better L1, {least} steps at least")
    return lines
