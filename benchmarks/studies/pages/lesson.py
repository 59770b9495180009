"""The tables of the lesson, in both languages."""

import json
from typing import Any

from injerto.basics.progress import format_bytes
from injerto.cli.show import percent
from injerto.studies.tables import gain_text
from pages.parts import HERE, NOT_YET, in_words, role_name, table
from pages.readme import demo


def lesson(part: str, name: str) -> Any:
    """A part of `lesson.json`; None where it was not run."""
    path = HERE / "lesson.json"
    found = json.loads(path.read_text())[part] if path.exists() else {}
    return found.get(name) if found else None


def count(language: str, value: int) -> str:
    """`3,381,256`; in Spanish with (unbreakable) spaces, from five digits on."""
    if language == "en":
        return f"{value:,}"
    return str(value) if value < 10_000 else f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


def within(figures: dict[str, Any]) -> str:
    """`78.4 % [70.3, 86.5]`."""
    return f"{percent(figures['accuracy'])} [{100 * figures['low']:.1f}, {100 * figures['high']:.1f}]"


def lesson_transfer(language: str) -> str:
    """One network with random and with pretrained weights."""
    names = {
        "untrained": in_words(language, "random weights", "pesos aleatorios"),
        "probe": in_words(language, "pretrained weights", "pesos preentrenados"),
    }
    runs = {name: lesson("runs", name) for name in names}
    if None in runs.values():
        return NOT_YET
    tested = runs["probe"]["domains"]["noto"]["n"]
    said = in_words(language, f"noto, {tested} test drawings [95 %]", f"noto, {tested} dibujos de prueba [95 %]")
    head = [in_words(language, "backbone", "red troncal"), said]
    return table(head, [[names[name], within(run["domains"]["noto"])] for name, run in runs.items()])


def lesson_runs(language: str, rows: dict[str, str]) -> str:
    """Runs beside each other: accuracy, what learned, what ships, what was forgotten."""
    found = {name: lesson("runs", name) for name in rows}
    if None in found.values():
        return NOT_YET
    source, *others = "noto", "twemoji", "openmoji-line"
    headings = [
        in_words(language, "run", "ejecución"),
        f"{source} [95 %]",
        *others,
        in_words(language, "weights that learned", "pesos que aprendieron"),
        in_words(language, "ships", "se entrega"),
        in_words(language, "agrees", "coincide"),
    ]
    cells = []
    for name, run in found.items():
        learned = count(language, run["parameters"]["trainable"])
        line = [rows[name], within(run["domains"][source]), *(percent(run["domains"][o]["accuracy"]) for o in others)]
        agrees = percent(run["forgetting"]["agreement"])
        cells.append([*line, learned, format_bytes(run["adapter_bytes"]), agrees])
    return table(headings, cells)


def lesson_full(language: str) -> str:
    """Fine-tuning."""
    return lesson_runs(language, {"full": "`full`"})


def lesson_head(language: str) -> str:
    """The probe with all pictures and with five a class."""
    few = in_words(language, "5 a class", "5 por clase")
    return lesson_runs(language, {"probe": in_words(language, "`head`, all", "`head`, todos"), "few": f"`head`, {few}"})


def lesson_lora(language: str) -> str:
    """The adapter beside the whole model, and one layer's pair."""
    text = lesson_runs(language, {"full": "`full`", "lora": "`lora:last:2`"})
    run = lesson("runs", "lora")
    if text == NOT_YET or "pair" not in run:
        return NOT_YET
    (rank, wide), (out, _) = run["pair"]["A"], run["pair"]["B"]
    w, pair = count(language, wide * out), count(language, rank * (wide + out))
    shapes = f"$m = {wide}$, $n = {out}$, $r = {rank}$"
    english = f"The layer `{run['pair']['layer']}`: {shapes}; {w} numbers in W, {pair} in A and B.\n"
    spanish = f"La capa `{run['pair']['layer']}`: {shapes}; {w} números en W, {pair} en A y B.\n"
    return f"{text}\n{in_words(language, english, spanish)}"


def lesson_gap(language: str) -> str:
    """Pairs of domains, farthest last; the probe is that of each pair's domain on the other."""
    found = lesson("gaps", "emoji-styles")
    if found is None:
        return NOT_YET
    headings = [
        in_words(language, "domains", "dominios"),
        "MMD² [95 %]",
        "p",
        in_words(language, "told apart", "se distinguen"),
        in_words(language, "probe: at home → in the other", "sonda: en casa → en el otro"),
    ]
    cells = []
    for pair in sorted(found["pairs"], key=lambda pair: pair["mmd2"]):
        ways = [f"{one['from']}: {percent(one['home'])} → {percent(one['away'])}" for one in pair["transfer"]]
        cells.append(
            [
                f"{pair['a']}, {pair['b']}",
                f"{pair['mmd2']:.3f} [{pair['mmd2_low']:.3f}, {pair['mmd2_high']:.3f}]",
                f"{pair['p_value']:.3f}",
                percent(0.5 + 0.25 * pair["a_distance"]),
                "<br>".join(ways),
            ]
        )
    return table(headings, cells)


def lesson_comparison(language: str, name: str, domains: list[str], distance: bool = False) -> str:
    """Rows of a comparison; how far apart the domains were before and after."""
    found = lesson("comparisons", name)
    if found is None:
        return NOT_YET
    roles = {key: role_name(language, one["role"]) for key, one in found["rows"][0]["domains"].items()}
    headings = [in_words(language, "alignment", "alineación"), *(f"{key} ({roles[key]})" for key in domains)]
    chance = next(row["probe"]["chance"] for row in found["rows"] if "probe" in row)
    said = in_words(language, "told apart, before → after", "se distinguen, antes → después")
    headings.append(f"{'MMD²; ' if distance else ''}{said} ({in_words(language, 'chance', 'azar')}: {percent(chance)})")
    cells = []
    for row in found["rows"]:
        line = [f"`{row['axes']['alignment']}`"]
        for key in domains:
            figures = row["domains"][key]
            text = "" if figures["gain"] is None else f" {gain_text(figures)}"
            line.append(percent(figures["accuracy"]) + text)
        apart = f"{percent(row['probe']['before'])} → {percent(row['probe']['after'])}" if "probe" in row else ""
        if distance and apart:
            before, after = (f"{row['mmd2'][side]:.3f}" for side in ("before", "after"))
            apart = f"{before} → {after}; {apart}"
        cells.append([*line, apart])
    seeds = len(found["seeds"])
    english = f"\nMean over {seeds} seeds; test split; gain in points [95 %].\n"
    spanish = f"\nMedia de {seeds} semillas; partición de prueba; ganancia en puntos [95 %].\n"
    return table(headings, cells) + in_words(language, english, spanish)


def lesson_unseen(language: str) -> str:
    """Three sources, an adversary, a style that nobody has seen."""
    return lesson_comparison(language, "unseen", ["noto", "twemoji", "fluent-3d", "openmoji-line"])


def lesson_brightness(language: str) -> str:
    """Day and night: the gap, then what alignment makes of it."""
    found = lesson("gaps", "brightness")
    after = lesson_comparison(language, "night", ["day", "night"], distance=True)
    if found is None or after == NOT_YET:
        return NOT_YET
    (pair,) = found["pairs"]
    way = next(one for one in pair["transfer"] if one["from"] == "day")
    light = next(one for one in pair["causes"] if one["what"] == "brightness")
    numbers = f"MMD² {pair['mmd2']:.3f} [{pair['mmd2_low']:.3f}, {pair['mmd2_high']:.3f}], p {pair['p_value']:.3f}"
    home, away = percent(way["home"]), percent(way["away"])
    mean_light = f"{light['a']:.2f} → {light['b']:.2f}"
    english = f"`injerto gap`: {numbers}; mean brightness {mean_light}; a probe of day's drawings: {home} at home, "
    english += f"{away} by night (balanced over the classes).\n"
    spanish = f"`injerto gap`: {numbers}; brillo medio {mean_light}; una sonda de los dibujos de día: {home} en casa, "
    spanish += f"{away} de noche (con igual peso para cada clase).\n"
    return f"{in_words(language, english, spanish)}\n{after}"


def lesson_register(language: str) -> str:
    """News to tweets: the classes' frequencies, and what each term makes of them."""
    after = lesson_comparison(language, "register", ["news", "tweets"])
    found = lesson("positive", "news"), lesson("positive", "tweets")
    if after == NOT_YET or None in found:
        return NOT_YET
    news, tweets = map(percent, found)
    english = f"Positive sentences: {news} of the news, {tweets} of the tweets.\n"
    spanish = f"Frases positivas: {news} de las noticias, {tweets} de los tuits.\n"
    return f"{in_words(language, english, spanish)}\n{after}"


LESSON = {
    "lesson-transfer": lesson_transfer,
    "lesson-full": lesson_full,
    "lesson-head": lesson_head,
    "lesson-gap": lesson_gap,
    "lesson-lora": lesson_lora,
    "lesson-unseen": lesson_unseen,
    "lesson-brightness": lesson_brightness,
    "lesson-register": lesson_register,
    "demo": demo,
}
"""The blocks of the lesson, in both languages."""
