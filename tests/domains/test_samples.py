from pathlib import Path

import pytest

from injerto.domains.load import load_domains
from injerto.domains.splits import split_domains

STYLES = ["fluent-3d", "noto", "openmoji-line", "twemoji"]


def test_emoji_styles() -> None:
    domains = load_domains("emoji-styles")
    assert domains.modality == "image" and domains.name == "emoji-styles"
    assert {name: len(domain) for name, domain in domains.items()} == dict.fromkeys(STYLES, 555)
    for domain in domains.values():
        assert set(domain.labels) == {"animal", "building", "clothing", "face", "food", "hand", "plant", "vehicle"}
        joined = [(g, s) for g, s in zip(domain.groups, domain.sources, strict=True) if g != Path(s).stem]
        assert len(joined) == 3  # three code points are drawn byte for byte as another one in some style
    sides = split_domains(domains, ["noto"], 0)
    test = [{g for g, side in zip(domains[name].groups, sides[name], strict=True) if side == "test"} for name in STYLES]
    assert 100 < len(test[0]) < 125 and all(found == test[0] for found in test)
    assert domains.check().problems == ()


def test_sentiment_domains() -> None:
    domains = load_domains("sentiment-domains")
    assert domains.modality == "text" and list(domains) == ["movies", "news", "products", "tweets"]
    assert sum(map(len, domains.values())) == 19_350 and not domains.problems
    assert {label for domain in domains.values() for label in domain.labels} == {"positive", "negative"}
    assert domains.check() is domains


def test_a_local_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    (tmp_path / "emoji-styles" / "mine").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "emoji-styles" / "mine" / "1.png")
    monkeypatch.chdir(tmp_path)
    assert list(load_domains("emoji-styles")) == ["emoji-styles"]
