"""Many adapters behind one base model: loaded and unloaded while it answers, mixed freely in a batch."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from injerto.adapters.card import read_card
from injerto.adapters.load import load_base
from injerto.adapters.snapshot import CARD, Place, Snapshot, opened
from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.bank.names import UnknownAdapter, check_name, name_of
from injerto.bank.questions import Answer, Question
from injerto.bank.resident import About, Resident, read_resident
from injerto.bank.trunk import Row, Trunk
from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker, bucket, prefetch
from injerto.compute.inference import IMAGE_CHUNK, inference_plan
from injerto.domains.columns import ColumnNames
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.domains.texts import tokenize
from injerto.evaluation.inputs import as_inputs
from injerto.evaluation.predictor import probabilities

TOKENS = 2048
"""Of a chunk of texts: many, so that few passes serve many adapters."""


class AdapterBank:
    """Adapters of one base model, each with its own classes; a batch may mix them as it likes.

    Low-rank pairs and re-estimated norms of all adapters of a batch go through each layer together; what adapters have
    in common with the base below their first changed stage runs once for all of them; an adapter with whole layers of
    its own (``last:K``) runs those by itself. Answers are those of :func:`injerto.load` up to rounding.

    It may be used from several threads: one computes at a time, loading does not wait for it.

    Examples:
        >>> bank = injerto.AdapterBank("packaged:minilm-l6")  # doctest: +SKIP
        >>> bank.load("runs/tweets")  # doctest: +SKIP
        >>> bank.load("runs/news")  # doctest: +SKIP
        >>> bank.predict(["what a day", "stocks fell"], ["tweets", "news"])  # doctest: +SKIP
    """

    def __init__(
        self, backbone: Any, *, precision: str = "fp32", threads: int | None = None, limit: int | None = None
    ) -> None:
        """Load the base.

        Args:
            backbone: A name, a folder, a network or a backbone, as for :func:`injerto.fit`.
            precision: ``fp32``, ``bf16`` or ``auto``.
            threads: CPU threads, None for all cores.
            limit: Bytes that adapters may take; those that were used longest ago make room, and are read again when
                they are asked for. None for no limit.

        Raises:
            InjertoError: Where the base cannot be loaded or the limit is no positive number.
        """
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise InjertoError(f"the limit is a number of bytes above 0, not {limit}")
        base = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
        if base is backbone:
            base.identify()  # it may have been trained since it was loaded
        self.base, self.limit = base, limit
        self._trunk = Trunk(base, inference_plan(base, precision, threads))
        self._residents: OrderedDict[str, Resident] = OrderedDict()
        self._about: dict[str, About] = {}
        self._layouts: dict[Any, Any] = {}
        self._lock, self._reading, self._computing = threading.Lock(), threading.Lock(), threading.Lock()

    @classmethod
    def of(
        cls, *paths: str | PathLike[str], backbone: Any = None, allow_modified: bool = False, **options: Any
    ) -> "AdapterBank":
        """A bank with these runs, on the base of the first.

        Args:
            *paths: RUN or RUN/adapter, each named by its folder.
            backbone: The base where the first one's card cannot name it on this machine.
            allow_modified: As for :meth:`load`.
            **options: As for the bank.

        Raises:
            InjertoError: As :meth:`load`.
        """
        if not paths:
            raise InjertoError("name one run or more")
        with opened(Place(Path(paths[0]), allow_modified=allow_modified), [CARD]) as files:
            base = load_base(Path(paths[0]), backbone, read_card(files, False))
        bank = cls(base, **options)
        for path in paths:
            bank.load(path, allow_modified=allow_modified)
        return bank

    def __repr__(self) -> str:
        """What it holds."""
        return f"<{type(self).__name__} of {len(self)} adapters on {self.base.spec}>"

    def __len__(self) -> int:
        """How many adapters can be asked."""
        return len(self._about)

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(list(self._about))

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name."""
        return name in self._about

    def __getitem__(self, name: str) -> Resident:
        """An adapter; read again where it had to make room.

        Args:
            name: In the bank.

        Raises:
            InjertoError: Where there is none.
        """
        while True:
            with self._lock:
                found = self._residents.get(name)
                if found is not None:
                    self._residents.move_to_end(name)
                    return found
            about = self.about(name)
            found = self._again(name, about)
            with self._lock:
                if found is not None and self._about.get(name) is about:
                    self._put(found)
                    return found

    def _again(self, name: str, about: About) -> Resident | None:
        """What made room for others, read again; None where it was replaced or unloaded in between."""
        try:
            with opened(about.place) as files:
                found = self._read(files, name)
        except InjertoError:
            if self._about.get(name) is about:
                raise
            return None
        if self._about.get(name) is about and found.digest != about.digest:
            raise InjertoError(
                f"{about.place.path} is another adapter than the one that was loaded as '{name}' and had to make room "
                "for others; load it again"
            )
        return found

    def about(self, name: str) -> About:
        """What is told of an adapter; nothing is read.

        Args:
            name: In the bank.

        Raises:
            InjertoError: Where there is none.
        """
        found = self._about.get(name)
        if found is None:
            raise UnknownAdapter(name, list(self))
        return found

    @property
    def bytes(self) -> int:
        """Memory that the adapters' numbers take."""
        with self._lock:
            return sum(resident.bytes for resident in self._residents.values())

    def load(self, path: str | PathLike[str], name: str | None = None, allow_modified: bool = False) -> str:
        """Read an adapter; one of the same name is replaced, requests under way keep the one they began with.

        It is read once and compared with its card's checksums before it takes the place of another. From then on the
        bank answers from its own memory, whatever becomes of the folder.

        Args:
            path: RUN or RUN/adapter.
            name: What to call it; the run's folder where not given.
            allow_modified: Go on, with a warning, where files are not as they were written with the card.

        Returns:
            The name.

        Raises:
            InjertoError: Where the name or a file does not do, or the adapter was made for another base.
        """
        place = Place(Path(path), allow_modified=allow_modified)
        name = check_name(name_of(place.path) if name is None else name)
        with opened(place) as files:
            self._take(self._read(files, name))
        return name

    def _read(self, files: Snapshot, name: str, card: dict[str, Any] | None = None) -> Resident:
        """Read an adapter with every check; the bank stays as it is.

        Args:
            files: Open.
            name: What it is to be called, checked.
            card: Its card; read where not given.

        Raises:
            InjertoError: As :meth:`load`.
        """
        with self._reading:  # what is checked is the base, whose way to be cut is found by running it
            found = read_resident(name, files, self.base, self._trunk.plan.dtype, card)
            self._trunk.cut_of(found)
        if self.limit is not None and found.bytes > self.limit:
            path = files.place.path
            raise InjertoError(f"{path} takes {found.bytes} bytes, more than the bank's limit of {self.limit}")
        return found

    def _take(self, found: Resident) -> None:
        """Take an adapter in at once; one of the same name is replaced.

        Args:
            found: From :meth:`_read` of this bank.
        """
        with self._lock:
            self._put(found)

    def _put(self, found: Resident) -> None:
        """Take an adapter in; others may have to make room."""
        layout = self._layouts.setdefault(found.layout, found.layout)  # equal layouts are one object
        object.__setattr__(found, "layout", layout)
        before = self._residents.pop(found.name, None)
        self._residents[found.name], self._about[found.name] = found, found.about
        if before is not None:
            self._trunk.forget(before)
        while self.limit is not None and sum(one.bytes for one in self._residents.values()) > self.limit:
            _, oldest = self._residents.popitem(last=False)
            self._trunk.forget(oldest)

    def unload(self, name: str) -> None:
        """Forget an adapter; requests under way still get their answers.

        Args:
            name: In the bank.

        Raises:
            InjertoError: Where there is none.
        """
        with self._lock:
            self.about(name)
            del self._about[name]
            before = self._residents.pop(name, None)
            if before is not None:
                self._trunk.forget(before)

    def predict(self, inputs: Any, adapters: str | Sequence[str], strength: float = 1.0) -> list[Answer]:
        """Ask an adapter about every input.

        Args:
            inputs: As for :meth:`injerto.evaluation.run.Run.predict_proba`; of a table the column is read that the
                adapters were fitted with.
            adapters: One name for all, or one for each.
            strength: From the base (0) to the adapter (1).

        Returns:
            An answer for each input, in order.

        Raises:
            InjertoError: Where an input can't be read, an adapter is not there, or the numbers do not match.
        """
        asked = [adapters] if isinstance(adapters, str) else list(adapters)
        items = as_inputs(inputs, self._names(asked))
        names = asked * len(items) if isinstance(adapters, str) else asked
        if len(names) != len(items):
            raise InjertoError(
                f"{len(items)} inputs and {len(names)} adapters; give one adapter, or one for each input"
            )
        return self.answer([Question(item, name, strength) for item, name in zip(items, names, strict=True)])

    def __call__(self, inputs: Any, adapters: str | Sequence[str] | None = None, top_k: int = 1) -> list[Any]:
        """Ask as one asks a pipeline of transformers.

        Args:
            inputs: As for :meth:`predict`.
            adapters: One name for all, or one for each; may be left out where there is one adapter.
            top_k: Classes of each answer, the most probable first.

        Returns:
            For each input ``{"label", "score"}``; where ``top_k`` is above 1 a list of so many.

        Raises:
            InjertoError: As :meth:`predict`; where no adapter is named and there is not exactly one.
        """
        if top_k < 1:
            raise InjertoError(f"top_k is 1 or more, not {top_k}")
        if adapters is None:
            if len(self) != 1:
                raise InjertoError(f"name an adapter; there are {len(self)}")
            (adapters,) = self
        found = []
        for answer in self.predict(inputs, adapters):
            best = np.argsort(-answer.probabilities, kind="stable")[:top_k]
            rows = [{"label": answer.labels[k], "score": float(answer.probabilities[k])} for k in best]
            found.append(rows if top_k > 1 else rows[0])
        return found

    def ask_all(self, item: Any, strength: float = 1.0) -> dict[str, Answer]:
        """Ask every adapter about one input.

        Args:
            item: A picture or a text.
            strength: From the base (0) to the adapters (1).

        Returns:
            Answers by adapter.

        Raises:
            InjertoError: Where it can't be read, or holds several inputs.
        """
        items = as_inputs(item, self._names(list(self)))
        if len(items) != 1:
            raise InjertoError(f"ask_all takes one input, not {len(items)}; use predict for several")
        return {answer.adapter: answer for answer in self.answer([Question(items[0], name, strength) for name in self])}

    def _names(self, adapters: Sequence[str]) -> ColumnNames:
        """What these adapters read of inputs: a table's column where all were fitted with the same."""
        cards = [self.about(name).card for name in dict.fromkeys(adapters)]
        columns = {card.get("columns", {}).get("input") for card in cards} - {None}
        fitted = (("input", columns.pop()),) if len(columns) == 1 else ()
        return ColumnNames(fitted=fitted, inputs_only=self.base.modality)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Ask many things at once.

        Args:
            questions: Each names its adapter; the same input object may be in several.

        Returns:
            Answers in order.

        Raises:
            InjertoError: Where an input can't be read, an adapter is not there, or a strength is not in 0..1.
        """
        residents: dict[str, Resident] = {}
        for question in questions:
            if not 0 <= question.strength <= 1:
                raise InjertoError(f"the strength runs from 0 (base) to 1 (adapter), not {question.strength!r}")
            if question.adapter not in residents:
                residents[question.adapter] = self[question.adapter]
        groups: dict[Any, list[int]] = {}
        for k, question in enumerate(questions):
            groups.setdefault(_looks(residents[question.adapter].preprocessing), []).append(k)
        answers: list[Answer | None] = [None] * len(questions)
        for members in groups.values():
            asked = [(questions[k], residents[questions[k].adapter]) for k in members]
            for k, found in zip(members, self._answer(asked), strict=True):
                answers[k] = found
        return [answer for answer in answers if answer is not None]

    def _answer(self, asked: Sequence[tuple[Question, Resident]]) -> list[Answer]:
        """Questions whose inputs are prepared in the same way."""
        inputs: list[Any] = []
        place: dict[Any, int] = {}
        for question, _ in asked:
            key = _key(question.input)
            if key not in place:
                place[key] = len(inputs)
                inputs.append(question.input)
        rows: dict[tuple[int, tuple[int, float]], int] = {}
        wanted: list[Row] = []
        which = []
        for question, resident in asked:
            i = place[_key(question.input)]
            plain = resident.is_plain or question.strength == 0
            row = Row(i, None, 1.0) if plain else Row(i, resident, question.strength)
            if (i, row.variant) not in rows:
                rows[i, row.variant] = len(wanted)
                wanted.append(row)
            which.append(rows[i, row.variant])
        embeddings = self._embed(asked[0][1].preprocessing, inputs, wanted)[which]
        answers: list[Any] = [None] * len(asked)
        heads: dict[tuple[int, float], list[int]] = {}
        for k, (question, resident) in enumerate(asked):
            heads.setdefault((id(resident), question.strength), []).append(k)
        for members in heads.values():
            question, resident = asked[members[0]]
            with torch.inference_mode():
                found = resident.classify(embeddings[members], question.strength)
            seen = found.embedding.numpy()
            for k, values, row in zip(members, probabilities(found.logits.numpy()), seen, strict=True):
                answers[k] = Answer(resident.name, resident.labels, values, row, resident.sketch)
        return answers

    def _embed(
        self, looks: ImagePreprocessing | TextPreprocessing, inputs: Sequence[Any], rows: Sequence[Row]
    ) -> torch.Tensor:
        """Embeddings of all rows, (n, D), in chunks that stay in the processor's cache."""
        maker = BatchMaker(looks, self._trunk.plan.device, self._trunk.plan.channels_last)
        found = torch.empty(len(rows), self.base.embedding_dim)
        if isinstance(looks, TextPreprocessing):
            tokens = tokenize([str(text) for text in inputs], looks)
            edges = [min(bucket(len(row)), looks.max_length) for row in tokens]
            chunks = _text_chunks(rows, edges)
            with self._computing:
                for chunk in chunks:
                    own, local = _own(rows, chunk)
                    batch = maker.collate_texts([tokens[i] for i in own], max(edges[i] for i in own))
                    found[chunk] = self._trunk.embed(batch, local)
            return found
        order = sorted(range(len(rows)), key=lambda k: rows[k].input)
        parts = [order[start : start + IMAGE_CHUNK] for start in range(0, len(order), IMAGE_CHUNK)]
        local_rows = [_own(rows, part) for part in parts]

        def load(item: Any) -> np.ndarray:
            return item if isinstance(item, np.ndarray) else maker.image(item)

        pictures = prefetch([[inputs[i] for i in own] for own, _ in local_rows], load, maker.workers)
        with self._computing:
            for part, (_, local), arrays in zip(parts, local_rows, pictures, strict=True):
                found[part] = self._trunk.embed(maker.collate_images(arrays), local)
        return found


def _own(rows: Sequence[Row], chunk: Sequence[int]) -> tuple[list[int], list[Row]]:
    """The inputs of a chunk, and its rows with inputs numbered within it."""
    own = sorted({rows[k].input for k in chunk})
    place = {i: k for k, i in enumerate(own)}
    return own, [Row(place[rows[k].input], rows[k].resident, rows[k].strength) for k in chunk]


def _text_chunks(rows: Sequence[Row], edges: Sequence[int]) -> list[list[int]]:
    """Rows of about equal lengths, so many that a chunk has its tokens."""
    chunks: list[list[int]] = []
    for k in sorted(range(len(rows)), key=lambda k: (edges[rows[k].input], rows[k].input)):
        edge = edges[rows[k].input]
        last = chunks[-1] if chunks else []
        shortest = edges[rows[last[0]].input] if last else edge
        if not last or edge > 2 * shortest or edge * (len(last) + 1) > TOKENS:
            chunks.append([])
        chunks[-1].append(k)
    return chunks


def _looks(preprocessing: ImagePreprocessing | TextPreprocessing) -> Any:
    """Equal where two adapters see an input alike."""
    return preprocessing.max_length if isinstance(preprocessing, TextPreprocessing) else preprocessing


def _key(item: Any) -> Any:
    """Equal for what need not be looked at twice."""
    return item if isinstance(item, str | Path) else id(item)
