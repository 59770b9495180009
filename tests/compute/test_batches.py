import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from injerto.compute.batches import TEXT_EDGES, BatchMaker, augmentation_rng, bucket, prefetch
from injerto.domains.preprocessing import ImagePreprocessing

LOOKS = ImagePreprocessing(32, 32, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), "bilinear", 1.0)


def test_images_are_normalized_as_torchvision_does() -> None:
    from torchvision.transforms import functional

    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    maker = BatchMaker(LOOKS, "cpu")
    batch = maker.collate_images([maker.image(Image.fromarray(array))] * 2)
    expected = functional.normalize(functional.to_tensor(array), LOOKS.mean, LOOKS.std)
    torch.testing.assert_close(batch[1], expected, rtol=1e-5, atol=1e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_a_bucket_is_the_next_edge() -> None:
    assert [bucket(n) for n in (0, 1, 8, 9, 33, 512, 513, 768, 769)] == [8, 8, 8, 16, 48, 512, 768, 768, 1024]
    assert all(bucket(n) >= n for n in range(2000))
    assert all(bucket(edge) == edge for edge in TEXT_EDGES)


def test_augmentation_is_a_pure_function_of_seed_content_and_view() -> None:
    def draw(*key: object) -> list[float]:
        return augmentation_rng(*key).random(4).tolist()  # type: ignore[arg-type]

    assert draw(0, "a", 0) == draw(0, "a", 0)
    different = [draw(0, "a", 0), draw(1, "a", 0), draw(0, "b", 0), draw(0, "a", 1), draw(0, "a1", 0), draw(0, "a", 10)]
    assert len({tuple(values) for values in different}) == len(different)


def test_prefetch_keeps_order_and_stays_close_ahead() -> None:
    begun: list[int] = []
    taken = 0
    ahead = 0

    def load(item: int) -> int:
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item * 10

    for rows in prefetch(([2 * i, 2 * i + 1] for i in range(20)), load, workers=3, depth=2):
        assert rows == [40 * taken // 2, 40 * taken // 2 + 10]
        taken += 1
        ahead = max(ahead, len(begun) - 2 * taken)
    assert taken == 20
    assert ahead <= 6  # at most three jobs of two begun and not handed out


def test_prefetch_passes_errors_on_and_ends_its_threads() -> None:
    def load(item: int) -> int:
        if item == 5:
            raise ValueError("item 5")
        return item

    with pytest.raises(ValueError, match="item 5"):
        list(prefetch([[i] for i in range(50)], load, workers=2))
    stream = prefetch([[i] for i in range(50)], lambda item: item, workers=2)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("injerto-load") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "threads still run"
        time.sleep(0.01)


def test_texts_are_padded_on_the_right(tiny_bert: Path) -> None:
    from injerto.backbones.load import load_backbone

    maker = BatchMaker(load_backbone(f"hf:{tiny_bert}").preprocessing, "cpu")
    rows = [np.asarray([2, 7, 3], np.int32), np.asarray([2, 7, 8, 9, 3], np.int32)]
    batch = maker.collate_texts(rows, 8)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0, 0, 0, 0, 0], [2, 7, 8, 9, 3, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert maker.collate_texts(rows)["input_ids"].shape == (2, 5)
