"""Settings in YAML: one mapping, each name once."""

from collections import Counter
from typing import Any


def load_mapping(text: str) -> dict[str, Any]:
    """Read a mapping of settings; ``batch-size`` and ``batch_size`` are one name.

    Args:
        text: YAML.

    Raises:
        ValueError: Where it is not a mapping of names, or names a setting twice.
        yaml.YAMLError: Where it is not valid YAML.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        fields = loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ValueError("must hold 'name: value' lines")
    assert isinstance(node, yaml.MappingNode)
    for name, times in Counter(str(key.value).replace("-", "_") for key, _ in node.value).items():
        if times > 1:
            raise ValueError(f"names {name} {times} times; name each setting once")
    return {key.replace("-", "_"): value for key, value in fields.items()}
