"""What goes over the wire."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from injerto.basics.limits import ADAPTER_NAME as LONGEST_NAME
from injerto.basics.limits import REQUEST_ADAPTERS as MOST_ADAPTERS
from injerto.basics.limits import REQUEST_ITEMS as MOST_ITEMS

NAME = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
STRENGTH = Annotated[
    float, Field(ge=0, le=1, allow_inf_nan=False, description="From the base (0) to the adapter (1).", examples=[1.0])
]


class Item(BaseModel):
    """One input: a text or a picture, and who is to answer."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, description="A text.", examples=["the film was very good"])
    image: str | None = Field(None, description="A picture (JPEG, PNG, WebP, ...), base64.")
    adapter: NAME | None = Field(None, description="Who answers; the request's where not given.")
    adapters: list[NAME] | None = Field(None, max_length=MOST_ADAPTERS, description="Several who answer.")
    strength: STRENGTH = 1.0


class Ask(BaseModel):
    """A batch of inputs, which may name different adapters."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"items": [{"text": "the film was very good"}, {"text": "a dull plot"}], "adapter": "films"},
                {"items": [{"text": "the film was very good", "adapters": ["films", "books"]}]},
            ]
        },
    )

    items: list[Item] = Field(min_length=1, max_length=MOST_ITEMS)
    adapter: NAME | None = Field(
        None, description="Who answers items that name nobody; may be left out if there is one."
    )


class Reply(BaseModel):
    """What one adapter says of one input."""

    adapter: str
    label: str = Field(description="The most probable class.")
    probability: float = Field(description="Its probability.")
    probabilities: dict[str, float] = Field(description="Of every class.")


class Result(BaseModel):
    """What is said of one input."""

    answers: list[Reply]


class Results(BaseModel):
    """A result for every input, in order."""

    results: list[Result]


class Drift(BaseModel):
    """Whether live inputs look as they did when an adapter was made: windows of them, tested one after the other."""

    window: int = Field(description="Different inputs of a window.")
    gathered: int = Field(description="Inputs in the one that is being filled.")
    windows: int = Field(description="Windows that were tested.")
    alarms: int = Field(description="How many of them looked changed.")
    by_chance: float = Field(description="How many would if nothing had changed, on average.")
    drifted: bool = Field(description="Whether the last one did.")
    p_value: float | None = Field(description="Of the last window, that nothing has changed.")
    mmd2: float | None = Field(description="Squared distance of the last window, biased: some of it is chance.")


class Adapter(BaseModel):
    """An adapter that can be asked."""

    name: str = Field(description="The run folder's name.")
    labels: list[str]
    base: str = Field(description="The base model's name.")
    modality: str = Field(description="`image` or `text`.")
    tuning: str
    alignment: str
    bytes: int = Field(description="Memory that its numbers take.")
    moves: bool = Field(description="Whether its strength makes a difference.")
    drift: Drift | None = Field(description="Of its live inputs; null where it was made without a drift sketch.")


class Load(BaseModel):
    """A run in the bank's folder to load."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"path": "tweets"}]})

    path: str = Field(min_length=1, max_length=500, description="The run's folder, relative to the bank's.")
    name: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_NAME,
        description="As its folder where not given.",
    )


class Problem(BaseModel):
    """What was wrong, in a sentence."""

    error: str


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Errors of a route for OpenAPI.

    Args:
        *codes: HTTP status codes.
    """
    return {code: {"model": Problem} for code in codes}
