"""Norm statistics re-estimated from the run's own examples: ``--norm recalibrate``."""

from collections.abc import Iterator

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker, Inputs, prefetch
from injerto.domains.domain import Domain
from injerto.training.prepare import Prepared
from injerto.training.watch import Watch
from injerto.tuning.norms import norm_layers, recalibrate

RECALIBRATE = 2048
"""Examples from which norm statistics are re-estimated."""
ROUGH = 100
"""Examples below which those statistics are called rough."""


def recalibrate_norms(prepared: Prepared, watch: Watch, trained: bool) -> bool:
    """Re-estimate norm statistics where the policy asks for it: frozen ones before training, trained ones after.

    Args:
        prepared: The run; its backbone is changed.
        watch: Is told of rough statistics.
        trained: Which of the two.

    Returns:
        Whether anything was changed.

    Raises:
        InjertoError: Where there are fewer than two examples.
    """
    norm, backbone = prepared.recipe.norm or "frozen", prepared.backbone
    if not norm.startswith("recalibrate"):
        return False
    names = prepared.targets if norm.endswith(":target") else prepared.sources
    parts = [prepared.part(name, "train") for name in names]
    count = sum(map(len, parts))
    if count < 2:
        raise InjertoError(f"--norm {norm}: {', '.join(names)} has fewer than two train examples; leave --norm out")
    if count < ROUGH:
        watch.say("recalibrate", f"--norm {norm}: {count} examples make rough statistics; compare without it")
    first = prepared.tuned.frozen_stages
    if norm.endswith(":target") and first == len(backbone.stages):
        watch.say(
            "recalibrate frozen",
            f"--norm {norm} with a frozen backbone: the sources go through the target's statistics too, and no weight "
            "follows; it can lose much: compare without it, or let stages move (--tuning last:2)",
        )
    only = {name for name in norm_layers(backbone) if (backbone.stage_of(f"{name}.running_mean") >= first) == trained}
    if only:
        recalibrate(backbone, _plain_batches(prepared, parts), only)
    return bool(only)


def _plain_batches(prepared: Prepared, parts: list[Domain]) -> Iterator[Inputs]:
    """Unaugmented batches of nearly equal size (at least 2) over up to 2,048 examples, evenly from the parts."""
    plan = prepared.plan
    maker = BatchMaker(prepared.backbone.preprocessing, plan.device, plan.channels_last)
    pairs = [
        (content, part.inputs[i])
        for part in parts
        for i, content in enumerate(part.contents[: RECALIBRATE // len(parts)])
    ]
    items = [item for _, item in sorted(pairs, key=lambda pair: pair[0])]
    count = max(1, len(items) // max(2, prepared.recipe.batch_size or 32))
    chunks = [[items[i] for i in indices] for indices in np.array_split(np.arange(len(items)), count)]
    for rows in prefetch(chunks, maker.image, maker.workers):
        yield maker.collate_images(rows)
