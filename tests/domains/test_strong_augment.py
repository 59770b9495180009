"""The strong view of self-training: another picture, another text, a pure function of its generator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from injerto.compute.batches import augmentation_rng
from injerto.domains.images import POLICIES, augment_image, prepare_image
from injerto.domains.preprocessing import ImagePreprocessing
from injerto.domains.strong_augment import RANDAUGMENT, is_strong, strong_image, strong_policy, strong_tokens
from injerto.domains.texts import augment_tokens

SIZE = ImagePreprocessing(32, 32, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), "bilinear", 1.0)
SPECIAL = frozenset({0, 1, 2})


def picture(seed: int, plain: bool) -> Image.Image:
    """Noise, or one colour that is not the grey of Cutout."""
    rng = np.random.default_rng(seed)
    shape = (1, 1, 3) if plain else (40, 36, 3)
    values = rng.integers(0, 100 if plain else 256, shape, dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(values, (40, 36, 3)).copy())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.sampled_from(POLICIES), st.integers(0, 50))
def test_a_picture_and_its_strong_view_differ(seed: int, plain: bool, policy: str, version: int) -> None:
    image = picture(seed, plain)
    if policy == "none":
        one = prepare_image(image, SIZE)
    else:
        one = augment_image(image, SIZE, policy, augmentation_rng(3, "key", version))
    strong = strong_policy(policy)
    assert is_strong(strong) and not is_strong(policy)
    other, again = (strong_image(image, SIZE, strong, augmentation_rng(3, "key", version, 1)) for _ in range(2))
    assert other.shape == one.shape == (32, 32, 3) and other.dtype == np.uint8
    assert np.array_equal(other, again)
    assert not np.array_equal(one, other)
    if not plain:  # versions of it are different too
        later = strong_image(image, SIZE, strong, augmentation_rng(3, "key", version + 1, 1))
        assert not np.array_equal(other, later)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_strong_view_is_further_from_the_picture_than_the_plain_one(policy: str) -> None:
    image = picture(5, plain=False).resize((12, 12)).resize((64, 64))
    whole = prepare_image(image, SIZE).astype(float)

    def distance(other: np.ndarray) -> float:
        return float(np.abs(other.astype(float) - whole).mean())

    keys = [str(index) for index in range(200)]
    plain = [augment_image(image, SIZE, policy, augmentation_rng(0, key, 0)) for key in keys]
    strong = [strong_image(image, SIZE, strong_policy(policy), augmentation_rng(0, key, 0, 1)) for key in keys]
    assert np.mean([distance(one) for one in strong]) > 1.2 * np.mean([distance(one) for one in plain])


@pytest.mark.parametrize("index", range(len(RANDAUGMENT)))
@pytest.mark.parametrize("level", [0.0, 0.5, 0.999])
def test_every_operation_keeps_size_and_mode(index: int, level: float) -> None:
    image = picture(1, plain=False)
    found = RANDAUGMENT[index](image, level)
    assert found.size == image.size and found.mode == "RGB"


def test_operations_at_the_levels_of_fixmatch() -> None:
    image = picture(2, plain=False)
    values = np.asarray(image).astype(int)
    same = [np.array_equal(np.asarray(RANDAUGMENT[i](image, 0.5)), values) for i in range(9, 14)]
    assert all(same)  # the middle of a range that goes both ways: nothing is turned, sheared or moved
    assert np.array_equal(np.asarray(RANDAUGMENT[7](image, 0.0)), values & 0xF0)  # four bits are left
    assert np.array_equal(np.asarray(RANDAUGMENT[7](image, 0.999)), values)  # eight
    assert np.array_equal(np.asarray(RANDAUGMENT[8](image, 0.0)), 255 - values)  # all is turned over
    dark = np.asarray(RANDAUGMENT[3](image, 0.0)).astype(float)
    np.testing.assert_allclose(dark, 0.05 * values, atol=1)
    moved = np.asarray(RANDAUGMENT[12](image, 1.0))  # 0.3 of 36 columns, sampled between pixels
    assert (moved[:, -10:] == 127).all() and not (moved[:, :20] == 127).all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(3, 200), max_size=40), st.integers(0, 2**31), st.sampled_from(POLICIES))
def test_a_text_and_its_strong_view_differ(body: list[int], seed: int, policy: str) -> None:
    ids = np.asarray([1, *body, 2], np.int32)
    one = augment_tokens(ids, SPECIAL, policy, augmentation_rng(seed, "key", 0))
    strong, again = (strong_tokens(ids, SPECIAL, augmentation_rng(seed, "key", 0, 1)) for _ in range(2))
    assert np.array_equal(strong, again) and strong.dtype == ids.dtype
    assert strong[0] == 1 and strong[-1] == 2  # special tokens stay
    kept = strong[1:-1].tolist()
    assert all(kept.count(token) <= body.count(token) for token in kept)  # nothing is invented
    if len(body) > 1:
        assert 1 <= len(kept) < len(body)
        if policy == "none":
            assert not np.array_equal(one, strong)
    else:
        assert kept == body


def test_tokens_are_dropped_as_often_as_they_should() -> None:
    ids = np.arange(3, 103, dtype=np.int32)
    left = [len(strong_tokens(ids, SPECIAL, augmentation_rng(0, str(i), 0, 1))) for i in range(300)]
    assert np.mean(left) == pytest.approx(70, abs=1)
