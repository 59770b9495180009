"""From raw inputs to tensors: decoding in threads ahead of the computation, padding, normalization."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from injerto.basics.files import sha256
from injerto.domains.domain import Domain
from injerto.domains.images import augment_image, prepare_image, read_image
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.domains.strong_augment import is_strong, strong_image, strong_tokens
from injerto.domains.texts import augment_tokens, pad, tokenize

Inputs = torch.Tensor | dict[str, torch.Tensor]
TEXT_EDGES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Lengths in tokens that cached and evaluated texts are padded to."""


class BatchMaker:
    """Turns examples into what a backbone takes.

    Attributes:
        preprocessing: The backbone's own.
        workers: Threads that decode and augment pictures.
    """

    def __init__(
        self,
        preprocessing: ImagePreprocessing | TextPreprocessing,
        device: str,
        channels_last: bool = True,
        workers: int = 2,
    ) -> None:
        """Prepare the normalization.

        Args:
            preprocessing: The backbone's own.
            device: Where batches go.
            channels_last: Whether pictures lie as (B, H, W, 3) in memory; a network's layout follows its input's.
            workers: Threads that decode and augment pictures.
        """
        self.preprocessing = preprocessing
        self.device, self.channels_last = device, channels_last
        self.workers = workers
        if isinstance(preprocessing, ImagePreprocessing):
            mean, std = (torch.tensor(value).view(3, 1, 1) for value in (preprocessing.mean, preprocessing.std))
            self.scale, self.shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    def image(self, source: Any, policy: str = "none", rng: np.random.Generator | None = None) -> np.ndarray:
        """Decode one picture: uint8 (H, W, 3).

        Args:
            source: Path, bytes, picture or array.
            policy: Augmentation policy.
            rng: Randomness of the augmentation, None for none.
        """
        assert isinstance(self.preprocessing, ImagePreprocessing)
        size = self.preprocessing
        picture = read_image(source, at_least=(size.width, size.height))
        if policy == "none" or rng is None:
            return prepare_image(picture, size)
        augment = strong_image if is_strong(policy) else augment_image
        return augment(picture, size, policy, rng)

    def collate_images(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        """Stack pictures: float32 (B, 3, H, W), normalized.

        Args:
            rows: uint8 arrays (H, W, 3).
        """
        stacked = torch.from_numpy(np.stack(rows)).to(self.device).permute(0, 3, 1, 2)
        if not self.channels_last:
            stacked = stacked.contiguous()
        return stacked.float().mul_(self.scale).add_(self.shift)

    def collate_texts(self, rows: Sequence[np.ndarray], length: int | None = None) -> dict[str, torch.Tensor]:
        """Pad token ids: ``input_ids`` and ``attention_mask``, int64 (B, L).

        Args:
            rows: Token ids of each text.
            length: L; the longest row where not given.
        """
        assert isinstance(self.preprocessing, TextPreprocessing)
        arrays = pad(rows, self.preprocessing, length)
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def augmented(self, ids: np.ndarray, policy: str, rng: np.random.Generator) -> np.ndarray:
        """One augmented version of a text: int32 (L,).

        Args:
            ids: Its token ids.
            policy: Augmentation policy.
            rng: Randomness of the augmentation.
        """
        assert isinstance(self.preprocessing, TextPreprocessing)
        special = frozenset(self.preprocessing.tokenizer.all_special_ids)
        return strong_tokens(ids, special, rng) if is_strong(policy) else augment_tokens(ids, special, policy, rng)

    def tokens(self, domain: Domain) -> list[np.ndarray]:
        """Token ids of every text of a domain.

        Args:
            domain: A domain of texts.
        """
        assert isinstance(self.preprocessing, TextPreprocessing)
        return tokenize([str(text) for text in domain.inputs], self.preprocessing)


def augmentation_rng(seed: int, content: str, version: int, view: int = 0) -> np.random.Generator:
    """Randomness of one augmented version: a pure function of its arguments.

    Args:
        seed: The run's seed.
        content: SHA-256 of the example's content.
        version: Which version.
        view: Which view of the example: two views of one version share no randomness.
    """
    what = f"{view}/{version}" if view else version
    return np.random.Generator(np.random.Philox(key=int(sha256(seed, content, what)[:32], 16)))


def bucket(length: int) -> int:
    """The length that a text of ``length`` tokens is padded to.

    Args:
        length: Tokens, special ones included.
    """
    return next((edge for edge in TEXT_EDGES if length <= edge), -(-length // 256) * 256)


def prefetch(
    jobs: Iterable[Sequence[Any]], load: Callable[[Any], Any], workers: int, depth: int = 2
) -> Iterator[list[Any]]:
    """Load the items of each job in threads, at most ``depth`` jobs ahead of the consumer, in order.

    Args:
        jobs: Lists of items.
        load: What makes an item ready; runs in a thread.
        workers: How many threads.
        depth: Jobs under way at once.

    Yields:
        The loaded items of each job.
    """
    with ThreadPoolExecutor(max_workers=max(workers, 1), thread_name_prefix="injerto-load") as pool:
        waiting: deque[list[Future[Any]]] = deque()
        try:
            for job in jobs:
                waiting.append([pool.submit(load, item) for item in job])
                if len(waiting) > depth:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()
