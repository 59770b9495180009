"""Injerto: deep transfer learning with adaptation. One run, two dials: what may move, what must match."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from injerto.adapters.load import load_peft
    from injerto.api import evaluate, export, fit, info, load, load_domains, predict
    from injerto.backbones.language import load_language
    from injerto.backbones.load import load_backbone
    from injerto.bank.bank import AdapterBank
    from injerto.basics.errors import InjertoError
    from injerto.estimator import Classifier
    from injerto.evaluation.gap import measure_gap
    from injerto.evaluation.rank import rank_backbones
    from injerto.reporting.gap import report_gap
    from injerto.reporting.report import report
    from injerto.serving.client import Client
    from injerto.studies.advise import advise
    from injerto.studies.combine import combine
    from injerto.studies.compare import compare
    from injerto.studies.search import search
    from injerto.studies.soup import soup

_PLACES = {
    "fit": "injerto.api",
    "evaluate": "injerto.api",
    "export": "injerto.api",
    "predict": "injerto.api",
    "info": "injerto.api",
    "load": "injerto.api",
    "load_domains": "injerto.api",
    "load_backbone": "injerto.backbones.load",
    "load_language": "injerto.backbones.language",
    "load_peft": "injerto.adapters.load",
    "soup": "injerto.studies.soup",
    "combine": "injerto.studies.combine",
    "compare": "injerto.studies.compare",
    "search": "injerto.studies.search",
    "advise": "injerto.studies.advise",
    "measure_gap": "injerto.evaluation.gap",
    "rank_backbones": "injerto.evaluation.rank",
    "report": "injerto.reporting.report",
    "report_gap": "injerto.reporting.gap",
    "AdapterBank": "injerto.bank.bank",
    "Client": "injerto.serving.client",
    "InjertoError": "injerto.basics.errors",
    "Classifier": "injerto.estimator",
}
__all__ = [
    "AdapterBank",
    "Classifier",
    "Client",
    "InjertoError",
    "__version__",
    "advise",
    "combine",
    "compare",
    "evaluate",
    "export",
    "fit",
    "info",
    "load",
    "load_backbone",
    "load_domains",
    "load_language",
    "load_peft",
    "measure_gap",
    "predict",
    "rank_backbones",
    "report",
    "report_gap",
    "search",
    "soup",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import injerto`` costs nothing."""
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("injerto")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'injerto' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
