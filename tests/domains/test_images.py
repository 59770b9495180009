import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.images import _told, augment_image, prepare_image, read_image
from injerto.domains.preprocessing import ImagePreprocessing


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with smooth parts, edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, (x // 7 + y // 5) % 2 * 255], -1)
    return Image.fromarray((base * 0.8 + rng.uniform(0, 50, base.shape)).clip(0, 255).astype(np.uint8))


def size(height: int, width: int, **options: object) -> ImagePreprocessing:
    return ImagePreprocessing(height, width, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), **options)  # type: ignore[arg-type]


CASES = [
    (128, 128, "bicubic", 0.875, "center"),
    (64, 64, "bilinear", 1.0, "center"),
    (96, 96, "bicubic", 0.95, "squash"),
    (96, 64, "bicubic", 0.9, "center"),
    (64, 96, "bilinear", 0.9, "squash"),
    (96, 96, "bicubic", 1.15, "center"),  # timm has such a one: black beyond the edge
    (95, 95, "lanczos", 0.91, "center"),
]


@pytest.mark.parametrize(("height", "width", "interpolation", "crop", "mode"), CASES)
def test_prepare_is_timms_evaluation_transform(
    height: int, width: int, interpolation: str, crop: float, mode: str
) -> None:
    from timm.data import create_transform

    transform = create_transform(
        (3, height, width), interpolation=interpolation, crop_pct=crop, crop_mode=mode, mean=(0, 0, 0), std=(1, 1, 1)
    )
    preprocessing = size(height, width, interpolation=interpolation, crop=crop, squash=mode == "squash")
    for shape in ((160, 160), (64, 64), (301, 97), (97, 301), (40, 33), (128, 128)):
        image = scene(*shape)
        expected = transform(image).numpy().transpose(1, 2, 0) * 255
        ours = prepare_image(image, preprocessing)
        assert ours.dtype == np.uint8 and ours.shape == (height, width, 3)
        assert np.abs(ours - expected).max() < 1e-3


@pytest.mark.parametrize("shape", [(40, 4000), (4000, 40), (3, 60_000)])
def test_a_long_picture_is_its_centre(shape: tuple[int, int]) -> None:
    from injerto.domains import images

    rows = np.linspace(0, 255, shape[0], dtype=np.uint8)[:, None, None]
    columns = np.linspace(0, 255, shape[1], dtype=np.uint8)[None, :, None]
    image = Image.fromarray(np.broadcast_to((rows // 2 + columns // 2), (*shape, 3)).astype(np.uint8))
    quick = prepare_image(image, size(64, 48))
    assert quick.shape == (64, 48, 3)
    if max(shape) < 60_000:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images, "LONG", 1e9)
            whole = prepare_image(image, size(64, 48))
        assert np.abs(quick.astype(int) - whole).max() <= 2


def test_augmentation_is_a_function_of_the_generator() -> None:
    image, preprocessing = scene(120, 90), size(64, 48)
    for policy in ("light", "standard"):
        one, same, other = (augment_image(image, preprocessing, policy, np.random.default_rng(s)) for s in (1, 1, 2))
        assert one.shape == (64, 48, 3) and (one == same).all() and (one != other).any()
    none = augment_image(image, preprocessing, "none", np.random.default_rng(0))
    assert (none == prepare_image(image, preprocessing)).all()
    with pytest.raises(InjertoError, match="did you mean 'light'"):
        augment_image(image, preprocessing, "lite", np.random.default_rng(0))


def test_augmentation_crops_flips_and_colours() -> None:
    ramp = Image.fromarray(
        np.broadcast_to(np.linspace(0, 255, 100).astype(np.uint8)[None, :, None], (100, 100, 3)).copy()
    )
    preprocessing = size(50, 50, interpolation="bilinear")
    spans: dict[str, list[float]] = {"light": [], "standard": []}
    flips = 0
    for policy, found in spans.items():
        for seed in range(200):
            row = augment_image(ramp, preprocessing, policy, np.random.default_rng(seed)).astype(float)[25, :, 0]
            found.append(abs(row[-1] - row[0]) / 255)
            flips += policy == "light" and row[0] > row[-1]
    assert 70 < flips < 130
    assert min(spans["light"]) > 0.6 and min(spans["standard"]) < 0.55  # smaller crops
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    levels = [augment_image(grey, preprocessing, "standard", np.random.default_rng(s)).mean() for s in range(50)]
    assert min(levels) < 100 and max(levels) > 150
    assert all((augment_image(grey, preprocessing, "light", np.random.default_rng(s)) == 128).all() for s in range(5))


def test_odd_modes_become_rgb(tmp_path: Path) -> None:
    image = scene(20, 10)
    clear = image.copy()
    clear.putalpha(0)
    palette = image.convert("P")
    deep = Image.fromarray(np.full((10, 20), 40_000, dtype=np.uint16))
    for name, picture, expected in (
        ("clear.png", clear, 255),
        ("grey.png", image.convert("L"), None),
        ("palette.gif", palette, None),
        ("deep.png", deep, 40_000 >> 8),
        ("cmyk.jpg", image.convert("CMYK"), None),
        ("one.png", image.convert("1"), None),
        ("la.png", clear.convert("LA"), 255),
    ):
        picture.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.mode == "RGB" and read.size == (20, 10)
        if expected is not None:
            assert (np.asarray(read) == expected).all(), name
    keyed = Image.new("P", (4, 4), 0)
    keyed.save(tmp_path / "keyed.png", transparency=0)
    assert (np.asarray(read_image((tmp_path / "keyed.png").read_bytes())) == 255).all()


def test_few_of_sixteen_bits_are_warned_of_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _told.clear()
    for name, top in (("full.tif", 60_000), ("small.tif", 200)):
        Image.fromarray(np.full((10, 20), top, dtype=np.uint16)).save(tmp_path / name)
        read_image(tmp_path / name)
    assert capfd.readouterr().err == ""
    for _ in range(2):
        Image.fromarray(np.full((10, 20), 4095, dtype=np.uint16)).save(tmp_path / "camera.tif")
        read_image(tmp_path / "camera.tif")
    said = capfd.readouterr().err
    assert said.count("becomes nearly black; rescale it to 8 bits first") == 1 and "camera.tif of 16 bits" in said


def test_pictures_stand_upright(tmp_path: Path) -> None:
    image = scene(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    read = read_image(tmp_path / "turned.jpg")
    assert read.size == (20, 40)
    expected = np.asarray(Image.open(tmp_path / "turned.jpg").transpose(Image.Transpose.ROTATE_270))
    assert (np.asarray(read) == expected).all()


def test_a_huge_photo_is_decoded_smaller_with_hardly_a_difference(tmp_path: Path) -> None:
    scene(300, 200).resize((2400, 1600), Image.Resampling.BICUBIC).save(tmp_path / "huge.jpg", quality=92)
    whole, quick = read_image(tmp_path / "huge.jpg"), read_image(tmp_path / "huge.jpg", at_least=(146, 146))
    assert min(quick.size) == 400
    preprocessing = size(128, 128, crop=0.875)
    difference = np.abs(prepare_image(whole, preprocessing).astype(int) - prepare_image(quick, preprocessing))
    assert difference.mean() < 1
    assert read_image(tmp_path / "huge.jpg", at_least=(900, 900)).size == (2400, 1600)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("text.jpg", b"this is no picture", "not a picture"),
        ("empty.png", b"", "not a picture"),
        ("gone.png", None, "No such file"),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path: Path, name: str, data: bytes | None, why: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InjertoError, match=rf"cannot read .*{name} \({why}") as error:
        read_image(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_picture_is_unreadable(kind: str) -> None:
    stream = io.BytesIO()
    scene(64, 64).save(stream, kind)
    with pytest.raises(InjertoError, match="cannot read picture"):
        read_image(stream.getvalue()[: len(stream.getvalue()) // 2])
    with pytest.raises(InjertoError, match="cannot read picture"):
        read_image(stream.getvalue()[: len(stream.getvalue()) // 2], at_least=(8, 8))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("L", (100, 100)).save(stream, "PNG")
    for limit in (9_000, 4_000):  # PIL itself only warns up to twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InjertoError, match="pixels"):
            read_image(stream.getvalue())
