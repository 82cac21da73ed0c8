"""The paper's tables, run or priced, beside what the paper prints: scripts/reproduce.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

import configs
from configs import InputError
from experiments.data import data_name
from experiments.evaluation.clip_score import CLIP
from experiments.grid import classes
from experiments.model import model_config
from experiments.paper.filling import Place, fill, runs
from experiments.paper.paper_tables import PaperTable, load_table, names
from experiments.paper.profiles import profiles
from experiments.paper.sheets import our_name, sheet
from experiments.paper.transfer import PASSED_ON, Transferred, transfer
from experiments.plugins import words_of
from experiments.prompts import read_prompts
from experiments.reports import report
from experiments.reports.tables import Sheet, sheet_csv, sheet_latex, sheet_markdown
from experiments.rows.judging import Judges
from experiments.rows.pricing import only_strategy, price
from experiments.rows.results import Result, merged
from experiments.rows.rows import Row, execute, find_result, images_in, key
from experiments.runs.run import SampleConfig
from experiments.runs.world import is_first, join
from experiments.training.classifier import DIGITS
from models.files import write_text

SHOWN = 8  # images of every row on the page
OF_THE_MACHINE = ("samples", "inception", "device")


@dataclass(frozen=True)
class ReproduceConfig:
    """One run of scripts/reproduce.py. What is null is the table's own."""

    table: str | None = None  # table1 … table14, or a YAML file
    all: bool = False  # every table
    cost_only: bool = False  # MACs and what follows from them: needs no checkpoint and samples nothing
    sections: list[str] | None = None  # those to run; the others show what was run before
    model: str | None = None  # another one, NAME in configs/models
    checkpoint: str | None = None  # random: costs and times on reproducible random weights
    steps: int | None = None  # of the uncached sampler; centres and fewer steps scale with it
    num_images: int | None = None
    batch_size: int | str | None = None  # or auto
    seed: int | None = None
    precision: str | None = None
    prompts: str | None = None  # text models: a file with one per line
    data: str | None = None  # real images or their statistics; of digits mnist
    inception: str | None = None  # the weights of FID's network
    clip: str = CLIP  # ARCHITECTURE/WEIGHTS of open_clip, or a file of its weights
    device: str = "auto"
    out: str = "outputs/tables"  # takes the tables, and results/
    samples: str = "outputs/samples"  # takes the images

    def __post_init__(self) -> None:
        if (self.table is None) != self.all:
            raise InputError(f"name either a table or --all; known: {', '.join(names())}")
        for name in ("steps", "num_images"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.sections == []:
            raise InputError("sections must name at least one; without the key all are run")

    def command(self, imports: Sequence[str] = ()) -> str:
        """That makes the same, wherever known data and the images lie on another machine. imports: words that make the
        user's own policies known."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        given = {name: value for name, value in given.items() if name not in OF_THE_MACHINE}
        if self.data is not None and data_name(self.data) in ("mnist", "cifar10"):
            given["data"] = data_name(self.data)
        words = [*([given.pop("table")] if "table" in given else []), *imports]
        for name, value in given.items():
            shown = f"[{','.join(value)}]" if isinstance(value, list) else value
            words.append(f"--{name.replace('_', '-')}" if value is True else f"{name}={shown}")
        return " ".join(["python scripts/reproduce.py", *(f'"{word}"' if " " in word else word for word in words)])


@dataclass(frozen=True)
class Reproduced:
    """What was made of one table."""

    name: str
    moved: Transferred
    results: dict[Place, Result]
    sheet: Sheet
    command: str  # that makes the same

    @property
    def failures(self) -> dict[str, str]:
        """The sentence of every row that failed."""
        return {f"{self.name}, {result.name}": result.error for result in self.results.values() if result.error}

    @property
    def is_all_failures(self) -> bool:
        """Did no row succeed? Then its files could tell nothing but the costs."""
        return bool(self.results) and all(result.error for result in self.results.values())


def reproduce(config: ReproduceConfig) -> list[Reproduced]:
    """Runs what is missing of the tables and writes them as Markdown, CSV and LaTeX, and one HTML page.

    Raises InputError, before anything is run or written, for a table, section, model or key that does not exist, for a
    setting that no run can have, for real images that are not there, for fewer prompts than images, and where no row to
    be run has a checkpoint.
    """
    chosen = {Path(name).stem: load_table(name) for name in (names() if config.all else [config.table])}
    for name, table in chosen.items():
        _check(name, table, config)
    moved = {name: transfer(table, _changes(table, config)) for name, table in chosen.items()}
    for name, each in moved.items():
        _check_rows(name, each.table)
    wanted = {name: _wanted(each.table, config) for name, each in moved.items()}
    if config.checkpoint != "random":
        _check_prompts(row for rows in wanted.values() for row in rows.values())
    join().first(lambda: _check_checkpoints(row for rows in wanted.values() for row in rows.values()))
    for name, each in moved.items():
        if wanted[name]:
            _judges(each.table, config).check_sources()
    made = []
    with tqdm(moved.items(), unit="table", disable=len(moved) < 2 or not is_first()) as bar:
        for name, each in bar:
            results = _sample(each.table, wanted[name], config) if wanted[name] else {}
            command = config.command(_imports(each.table))
            made.append(Reproduced(name, each, results, sheet(each, results, command), command))
    join().first(lambda: _write(made, config))
    return made


def _check(name: str, table: PaperTable, config: ReproduceConfig) -> None:
    known = [section.name for section in table.sections]
    if config.sections and config.model:
        raise InputError("sections are the paper's data sets; on another model leave them out")
    for section in config.sections or []:
        configs.one_of(section, known, f"the section of {name}")
    given = {"data": config.data, "prompts": config.prompts}
    for word, value in given.items():
        if value and not config.model and len(config.sections or known) > 1:
            raise InputError(f"{word}={value} is for one data set, but {name} has several sections; name the one, "
                             f"e.g. sections=[{known[0]!r}]")  # fmt: skip


def _check_rows(name: str, table: PaperTable) -> None:
    """Raises InputError for a row that no run can have: better now than after all rows before it."""
    for section in table.sections:
        for entry in section.rows:
            for change in entry.changes.values():
                try:
                    price(section.config(change))
                except InputError as error:
                    raise InputError(f"{name}, row {entry.name!r}: {error}") from error


def _check_prompts(rows: Iterable[Row]) -> None:
    """Raises InputError where images would share prompts: the paper's tables have one for each."""
    for file, images in {(row.config.prompts, row.config.num_images) for row in rows if row.config.prompts}:
        count = len(read_prompts(file))
        if count < images:
            raise InputError(f"{file} has {count} prompts for {images} images; give num_images={count}, or a file with "
                             "one line for each")  # fmt: skip


def _imports(table: PaperTable) -> list[str]:
    """The words that make a table's policies and forecasters known."""
    return words_of(*classes(only_strategy(row.config) for _, row in runs(table)))


def _changes(table: PaperTable, config: ReproduceConfig) -> dict[str, Any]:
    """What `transfer` is told. Random weights are tried on one batch."""
    changes = {key: getattr(config, key) for key in ("model", "steps", *PASSED_ON)}
    if config.checkpoint == "random" and config.num_images is None:
        own = SampleConfig.batch_size if config.model else min(s.base["batch_size"] for s in table.sections)
        changes["num_images"] = config.batch_size if isinstance(config.batch_size, int) else own
    return changes


def _wanted(table: PaperTable, config: ReproduceConfig) -> dict[Place, Row]:
    """The rows to run: those of the chosen sections."""
    if config.cost_only or not table.is_sampled:
        return {}
    chosen = config.sections or [section.name for section in table.sections]
    return {place: row for place, row in runs(table) if table.sections[place.section].name in chosen}


def _check_checkpoints(rows: Iterable[Row]) -> None:
    """Raises InputError where no row can begin: a table of failures would take the place of a good one."""
    sentences = []
    for row in {(row.config.model, row.config.checkpoint, row.config.prompts): row for row in rows}.values():
        try:
            key(row)
        except InputError as error:
            sentences.append(str(error))
        else:
            return
    if sentences:
        raise InputError(sentences[0])


def _sample(table: PaperTable, wanted: Mapping[Place, Row], config: ReproduceConfig) -> dict[Place, Result]:
    """Runs the rows that are wanted; of the others, reads what there is."""
    out, samples = Path(config.out), Path(config.samples)
    made = execute(list(wanted.values()), out, samples, _judges(table, config))
    results = dict(zip(wanted, made, strict=True))
    places = dict(runs(table))
    for place in places.keys() - wanted.keys():
        if found := join().first(lambda place=place: find_result(places[place], out)):
            results[place] = found
    return results


def _judges(table: PaperTable, config: ReproduceConfig) -> Judges:
    network = model_config(table.sections[0].base["model"]).network
    is_digits = (network.in_channels, network.resolution, network.resolution) == DIGITS
    has_scores = any(column.metric == "clip_score" for column in table.columns) and not config.model
    return Judges(
        data=config.data or ("mnist" if is_digits else None),
        inception=config.inception,
        clip=config.clip if has_scores else None,
        resize="tensorflow" if is_digits else table.resize,
        device=str(join().first_then_others(lambda: join().device(config.device))),
    )


def _write(made: Sequence[Reproduced], config: ReproduceConfig) -> None:
    out = Path(config.out)
    forms: dict[str, Callable[[Sheet], str]] = {"md": sheet_markdown, "csv": sheet_csv, "tex": sheet_latex}
    for table in made:
        for suffix, form in forms.items():
            path = out / f"{_stem(table.name, config)}.{suffix}"
            if not (table.is_all_failures and path.exists()):  # failures never take the place of figures
                write_text(path, form(table.sheet))
    name = "tables" if config.all else made[0].name
    title = "Tables of DeepCache" if config.all else made[0].sheet.title
    commands = [config.command()] if config.all else [table.command for table in made]
    blocks: list[report.Block] = [report.Code(command) for command in commands]
    for table in made:
        heading = [report.Section(table.sheet.title)] if config.all else []
        blocks += [*heading, *_blocks(table, Path(config.samples))]
    report.write_report(out / f"{_stem(name, config)}.html", title, blocks)


def _stem(name: str, config: ReproduceConfig) -> str:
    """The name of a table's files: what is priced, random or another model's never replaces what is not."""
    parts = [name, config.model, "random" if config.checkpoint == "random" else "", "costs" if config.cost_only else ""]
    return "-".join(Path(part).stem for part in parts if part)


def _blocks(made: Reproduced, samples: Path) -> list[report.Block]:
    """A table's part of the page."""
    whole = made.sheet
    filled, columns = fill(made.moved.table, made.results), made.moved.table.columns
    ours = [our_name(column, made.results.values()) for column in columns]
    blocks: list[report.Block] = []
    for index, (name, lines) in enumerate(whole.sections):
        rows = [[f"{line.name} {''.join(f'[{mark}]' for mark in line.marks)}".strip(), *line.cells] for line in lines]
        caption = name if whole.is_sectioned else ""
        blocks.append(report.Table([whole.corner, *whole.header], rows, caption=caption))
        if figure := profiles(columns, ours, filled[index], not made.moved.changed):
            blocks.append(report.Picture(figure, caption=f"{name}: along the rows"))
        if images := _images(made, index, samples):
            blocks.append(report.ImageGrid(images, caption=f"{name}: the same seeds under every row"))
    marked = [f"[{number}] {note}" for number, note in enumerate(whole.footnotes, 1)]
    blocks.append(report.Text("\n\n".join([*marked, *whole.notes])))
    for section in made.moved.table.sections:
        blocks.append(report.Configuration(asdict(section), title=f"{section.name}: configuration"))
    if around := merged(result.environment for result in made.results.values()):
        blocks.append(report.Versions(around))
    return blocks


def _images(made: Reproduced, section: int, samples: Path) -> list[tuple[str, list[Any]]]:
    """The first images of every row of a section, as far as they are on disk."""
    places: Mapping[Place, Row] = dict(runs(made.moved.table))
    rows = []
    for place, result in made.results.items():
        if place.section == section and not result.error and not result.random_weights:
            images = images_in(samples, places[place], result.key, SHOWN)
            if images is not None:
                rows.append((result.name, list(images)))
    return rows
