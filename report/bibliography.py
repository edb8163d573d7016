"""references.bib → citations in the text and the list of references at the end."""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bibtexparser.entrypoint import parse_file
from bibtexparser.middlewares import NameParts, SeparateCoAuthors, SplitNameParts
from bibtexparser.model import Entry

from errors import BuildError


@dataclass(frozen=True)
class Reference:
    """One entry: `label` stands in the text (Ulyanov et al. 2018), `text` in the list, `links` are (name, address)."""

    key: str
    label: str
    text: str
    title: str
    links: tuple[tuple[str, str], ...]
    order: tuple[str, ...]


class Bibliography:
    """The entries of a .bib file, and which of them were cited."""

    def __init__(self, path: Path):
        self.path = path
        # the parser logs what it cannot read as well as reporting it; one of the two is enough
        logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)
        library = parse_file(str(path), append_middleware=[SeparateCoAuthors(), SplitNameParts()])
        if library.failed_blocks:
            block = library.failed_blocks[0]
            raise BuildError(f"{path.name}, line {(block.start_line or 0) + 1}: {block.error}")
        plain = [_reference(entry, path) for entry in library.entries]
        alike = defaultdict(list)
        for reference in sorted(plain, key=lambda reference: reference.order):
            alike[reference.label].append(reference.key)
        letters = {
            key: letter
            for keys in alike.values()
            if len(keys) > 1
            for letter, key in zip("abcdefgh", keys, strict=False)
        }
        self.entries = {entry.key: _reference(entry, path, letters.get(entry.key, "")) for entry in library.entries}
        self.cited: set[str] = set()

    def cite(self, key: str, where: str) -> Reference:
        """The entry with this key, marked as cited; `where` names the place that cites it."""
        if key not in self.entries:
            near = difflib.get_close_matches(key, self.entries, n=1)
            hint = f"; did you mean @{near[0]}?" if near else ""
            raise BuildError(f"{where}: citation @{key} is not in {self.path.name}{hint}")
        self.cited.add(key)
        return self.entries[key]

    def cited_references(self) -> list[Reference]:
        """The cited entries, by family name of the authors, then year."""
        return sorted((self.entries[key] for key in self.cited), key=lambda reference: reference.order)


def _plain(value: str) -> str:
    """BibTeX text without its grouping braces and with real dashes; the file itself is UTF-8."""
    return value.replace("{", "").replace("}", "").replace("--", "–").strip()


def _family(person: NameParts) -> str:
    return _plain(" ".join([*person.von, *person.last]))


def _initials(person: NameParts) -> str:
    names = [part for name in person.first for part in name.split()]
    return " ".join("-".join(f"{half[0]}." for half in name.split("-") if half) for name in names)


def _reference(entry: Entry, path: Path, letter: str = "") -> Reference:
    """Turn one BibTeX entry into the strings of the page; a letter tells it from others of its authors and year."""
    fields = {field.key: field.value for field in entry.fields}
    missing = [name for name in ("author", "title", "year") if name not in fields]
    if missing:
        raise BuildError(f"{path.name}: entry {entry.key} has no {', '.join(missing)}")
    families = [_family(person) for person in fields["author"]]
    people = [f"{_family(person)}, {_initials(person)}" for person in fields["author"]]
    year, title = _plain(fields["year"]) + letter, _plain(fields["title"])
    stop = "" if title.endswith(("?", "!")) else "."
    venue = _venue({name: _plain(value) for name, value in fields.items() if isinstance(value, str)})
    authors = people[0] if len(people) == 1 else f"{', '.join(people[:-1])} and {people[-1]}"
    return Reference(
        key=entry.key,
        label=f"{_short(families)} {year}",
        text=f"{authors} ({year}). {title}{stop} {venue}".strip(),
        title=title,
        links=_links(fields),
        order=(*(family.casefold() for family in families), year, title.casefold()),
    )


def _short(families: list[str]) -> str:
    if len(families) > 2:
        return f"{families[0]} et al."
    return " and ".join(families)


def _venue(fields: dict[str, str]) -> str:
    """Where it appeared: journal or proceedings, volume(number), pages; of a preprint its link tells."""
    place = fields.get("journal") or fields.get("booktitle")
    if place is None:
        return ""
    volume = fields.get("volume", "") + (f"({fields['number']})" if "number" in fields else "")
    return ", ".join(part for part in (f"{place} {volume}".strip(), fields.get("pages")) if part) + "."


def _links(fields: dict[str, str]) -> tuple[tuple[str, str], ...]:
    links = []
    if "doi" in fields:
        links.append((f"doi:{fields['doi']}", f"https://doi.org/{fields['doi']}"))
    if "eprint" in fields:
        links.append((f"arXiv:{fields['eprint']}", f"https://arxiv.org/abs/{fields['eprint']}"))
    return tuple(links)
