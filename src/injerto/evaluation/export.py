"""Export a run, and check on real inputs that what was written computes the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from injerto.adapters.export import export_int8, export_merged, export_onnx, export_peft
from injerto.basics.errors import InjertoError
from injerto.basics.files import filled, sha256
from injerto.basics.lock import LOCK
from injerto.basics.progress import format_bytes, note
from injerto.compute.batches import BatchMaker
from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.texts import tokenize
from injerto.evaluation.language import LanguageRun, token_losses
from injerto.evaluation.predictor import predict_logits
from injerto.evaluation.run import Run
from injerto.tasks.language import encode_text
from injerto.tuning.lora.tuning import low_rank_layers

TOLERANCE = 1e-3
"""Largest difference of logits, relative to their largest, that an ONNX file may show."""


def export(run: Run, out: Path, form: str, inputs: Sequence[Any]) -> dict[str, Any]:
    """Write a run in another format.

    Args:
        run: Opened.
        out: The folder; new or empty.
        form: ``peft``, ``int8``, ``merged`` or ``onnx``.
        inputs: Real inputs to check on; may be empty, but not for ``onnx``.

    Returns:
        Bytes written, and what the check found.

    Raises:
        InjertoError: Where the run has no such form, or the file does not compute the same; nothing is left then.
    """
    model, card = run.model, run.card
    found: dict[str, Any] = {"format": form, "out": str(out)}
    with filled(out) as place:
        if form == "merged":
            export_merged(place, model, card)
        elif form == "peft":
            export_peft(place, model, card, run.changed)
        elif form == "int8":
            export_int8(place, model, card, run.changed, run.sketch)
            found |= _check_int8(run, type(run)(place, run.given_backbone, threads=run.plan.threads), inputs)
        else:
            found |= _onnx(run, place, inputs)
    found["bytes"] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and file.name != LOCK)
    checked = ", ".join(f"{key.replace('_', ' ')} {value:.2g}" for key, value in found.items() if type(value) is float)
    note(f"{out}: {form}, {format_bytes(found['bytes'])}" + (f"; {checked}" if checked else ""))
    return found


def _check_int8(run: Run, small: Run, inputs: Sequence[Any]) -> dict[str, Any]:
    """How far rounding moved the weights' changes, and what it does on real inputs."""
    before, after = (dict(low_rank_layers(one.model.backbone.model)) for one in (run, small))
    with torch.no_grad():
        errors = [
            float((after[path].delta() - layer.delta()).norm() / layer.delta().norm().clamp_min(1e-12))
            for path, layer in before.items()
        ]
    found: dict[str, Any] = {"weight_error": float(np.mean(errors)), "worst_weight_error": float(max(errors))}
    if inputs and not isinstance(run, LanguageRun):
        a, b = (_logits(one, inputs) for one in (run, small))
        found["largest_logit_difference"] = float(np.abs(a - b).max())
        found["same_predictions"] = float((a.argmax(1) == b.argmax(1)).mean())
        found["checked_on"] = len(inputs)
    elif inputs:
        nats = [float(np.divide(*map(np.sum, _nats(one, inputs)))) for one in (run, small)]
        found |= {"nll": nats[0], "nll_int8": nats[1], "checked_on": len(inputs)}
    return found


def _nats(run: Run, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(run, LanguageRun)
    return token_losses(run.model, run.plan, [encode_text(str(item), run.size) for item in inputs], "checking")


def _logits(run: Run, inputs: Sequence[Any]) -> np.ndarray:
    return predict_logits(run.model, run.plan, inputs, [sha256(index) for index in range(len(inputs))])


def _onnx(run: Run, out: Path, inputs: Sequence[Any]) -> dict[str, Any]:
    if isinstance(run, LanguageRun):
        raise InjertoError("--format onnx is for classifiers; export a language model as merged, then use its tools")
    if len(inputs) < 2:
        raise InjertoError("--format onnx is checked on real inputs; name some with --data")
    model, card = run.model, run.card
    maker = BatchMaker(model.backbone.preprocessing, "cpu")
    size = model.backbone.preprocessing
    rows = (
        tokenize([str(item) for item in inputs], size)
        if isinstance(size, TextPreprocessing)
        else [maker.image(item) for item in inputs]
    )
    collate = maker.collate_texts if isinstance(size, TextPreprocessing) else maker.collate_images
    batches = [collate(rows[start : start + 8]) for start in range(0, len(rows), 8)]
    path = export_onnx(out, model.cpu(), card, batches[0])
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    worst, largest = 0.0, 0.0
    for batch in batches:
        given = {names[0]: batch.numpy()} if isinstance(batch, torch.Tensor) else {n: batch[n].numpy() for n in names}
        with torch.no_grad():
            ours = model(batch).logits.numpy()
        theirs = session.run(None, given)[0]
        worst, largest = max(worst, float(np.abs(ours - theirs).max())), max(largest, float(np.abs(ours).max()))
    if worst > TOLERANCE * max(1.0, largest):
        raise InjertoError(f"the ONNX file's logits differ by {worst:.2g} from the model's; use --format merged")
    return {"largest_logit_difference": worst, "checked_on": len(inputs)}
