"""What a page has its reader run, read from the page: the tests and the study of the lesson run it from there."""

import re

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
CALL = re.compile(r"(\w+=\S+ )*(torchrun .*-m )?injerto ")


def blocks(text: str) -> list[tuple[str, str]]:
    """Every block of code of a page, in order: its language and its lines.

    Args:
        text: The page.
    """
    return FENCE.findall(text)


def commands(language: str, block: str) -> list[str]:
    """The lines of a block that call injerto: continued ones joined, prompt and comments left out.

    Args:
        language: ``console`` where commands stand behind ``$``.
        block: Its lines.
    """
    prompt = "$ " if language == "console" else ""
    lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
    found = [line.strip().removeprefix(prompt).split("  #")[0].strip() for line in lines]
    return [line for line in found if CALL.match(line)]
