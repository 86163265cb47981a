"""The lineage of runs: which run was cloned from which, what changed, and the effect of the change.

Runs that differ only in their seed are one node. A study with many combinations is one node as well.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from core.config import LEARNING_FIELDS, RunConfig, is_relevant
from core.views import changes, formats
from core.views.differences import differences, effect_text
from core.views.formats import difference_text, plural, value_text
from core.views.tables import is_missing, records

if TYPE_CHECKING:  # imports SciPy
    from core.studies.noise import Noise

METRIC = "best_val_loss"
"""The metric shown on nodes and edges."""
MAX_NODES = 60
MAX_STUDY_NODES = 12
"""A study with more combinations is a single node."""
MAX_CHANGES = 4
"""Maximum number of changes listed on an edge."""
MAX_TOOLTIP_NAMES = 20
MAX_NAME_CHARACTERS = 40
SETTINGS = "settings group"
"""Key added to rows: a number shared by all runs with the same settings."""
COLORS = {
    "light": {"page": "#ffffff", "text": "#1f2430", "caption": "#565b66", "line": "#b4bac5", "focus": "#285fb0", "gray": "#6f7580"},
    "dark": {"page": "#14161b", "text": "#eceef3", "caption": "#a7aebb", "line": "#5b6474", "focus": "#6aa5f3", "gray": "#8a909c"},
}  # fmt: skip
"""Colors by theme. Graphviz charts do not follow the page's theme on their own."""
FONT = "Source Sans, sans-serif"


@dataclass(frozen=True)
class Node:
    """One or more runs.

    Args:
        title: name of the run or study. For several runs, the name of the first and the number of others.
        runs: names of the runs, oldest first. Empty for a study whose combinations are separate nodes.
        color: color of the dot; empty if there are several runs.
        caption: the result.
        link: URL of the page that a click opens, relative to the dashboard.
    """

    title: str
    runs: tuple[str, ...]
    color: str
    caption: str
    link: str


@dataclass(frozen=True)
class Edge:
    """A change from one node to another.

    Args:
        source, target: positions of the nodes.
        change: the changed settings, one per line.
        result: effect or difference; empty if unknown.
        is_gray: whether the difference is within the noise.
    """

    source: int
    target: int
    change: tuple[str, ...]
    result: str = ""
    is_gray: bool = False


@dataclass(frozen=True)
class Lineage:
    """A graph of runs.

    Args:
        nodes: the nodes. Those closest to the first run come first.
        hidden: number of nodes left out because there are more than MAX_NODES.
        isolated: number of runs left out because they have no parent or children.
    """

    nodes: Sequence[Node] = ()
    edges: Sequence[Edge] = ()
    hidden: int = 0
    isolated: int = 0


@dataclass
class _Group:
    """Rows of a node, oldest first, before it is described."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    study: str = ""
    """Name of the study that this node represents if its combinations are separate nodes. It then has no rows."""
    fields: tuple[str, ...] = ()
    """The settings that vary in this study."""


def family(runs: pd.DataFrame, name: str) -> list[str]:
    """Return a run's relatives: ancestors, siblings, descendants, and the studies that they belong to.

    Args:
        runs: rows of `Lab.runs`.
    """
    parents = _parents(runs)
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found = {name: None}
    ancestor = parents.get(name)
    while ancestor is not None and ancestor not in found:
        found[ancestor] = None
        ancestor = parents.get(ancestor)
    pending = [name]
    while pending:
        below = [child for parent in pending for child in children.get(parent, ())]
        pending = [child for child in below if child not in found]
        found.update(dict.fromkeys(pending))
    found.update(dict.fromkeys(children.get(parents.get(name, ""), ())))
    studies = set(runs.loc[runs["name"].isin(found), "study"].dropna())
    found.update(dict.fromkeys(runs.loc[runs["study"].isin(studies), "name"][::-1]))
    return [*found]


def build(
    runs: pd.DataFrame,
    names: Sequence[str],
    effects: pd.DataFrame,
    noise: "Noise",
    with_isolated: bool = True,
) -> Lineage:
    """Return the graph of some runs.

    Args:
        runs: rows of `Lab.runs`, newest first.
        names: the runs to show, most important first.
        effects: `Lab.effects` of METRIC.
        noise: `Lab.noise` of METRIC.
        with_isolated: include single runs without a parent or children.
    """
    groups, ids = _grouped(runs, names)
    parents = _parents(runs)
    links: dict[int, list[int]] = {}
    for child, group in enumerate(groups):
        above = {ids[parent] for row in group.rows if (parent := parents.get(row["name"])) in ids}
        links[child] = sorted(above - {child})
    studies = {group.study: i for i, group in enumerate(groups) if group.study}
    for child, group in enumerate(groups):
        study = group.rows[0]["study"] if group.rows else None
        if study in studies and not links[child]:
            links[child] = [studies[study]]
    order = _nearest(groups, links)
    isolated: set[int] = set()
    if not with_isolated:
        linked = {end for child, above in links.items() for end in (child, *above) if above}
        isolated = {i for i in order if i not in linked and len(groups[i].rows) == 1}
        order = [i for i in order if i not in isolated]
    kept = {group: position for position, group in enumerate(order[:MAX_NODES])}
    edges = [
        _edge(kept[parent], kept[child], groups[parent], groups[child], effects, noise)
        for child in kept
        for parent in links[child]
        if parent in kept
    ]
    nodes = [_node(groups[group]) for group in kept]
    return Lineage(nodes, edges, len(order) - len(kept), len(isolated))


def _parents(runs: pd.DataFrame) -> dict[str, str]:
    """Return the parent of each run that has one. Deleted parents are omitted."""
    known = set(runs["name"])
    pairs = zip(runs["name"][::-1], runs["parent"][::-1], strict=True)  # oldest first
    return {name: parent for name, parent in pairs if parent in known and parent != name}


def _grouped(runs: pd.DataFrame, names: Sequence[str]) -> tuple[list[_Group], dict[str, int]]:
    """Group runs that differ only in their seed. Returns the groups, and each run's position in them."""
    from core.studies.noise import groups as settings_of  # imports SciPy

    order = {name: position for position, name in enumerate(names)}
    chosen = runs[runs["name"].isin(order)]
    numbers = dict(zip(chosen["name"], settings_of(chosen), strict=True)) if len(chosen) else {}
    rows = sorted(records(chosen), key=lambda row: order[row["name"]])
    for row in rows:
        row[SETTINGS] = numbers[row["name"]]
    by_name = {row["name"]: row for row in rows}
    by_study: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_study.setdefault(row["study"] or "", []).append(row)
    sizes = {study: _combinations(members) for study, members in by_study.items()}
    groups: dict[tuple[Any, ...], _Group] = {}
    keys: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        study = row["study"] or ""
        is_single = study and sizes[study] > MAX_STUDY_NODES
        if study and not row["parent"] and 1 < sizes[study] <= MAX_STUDY_NODES:
            fields = _differing(by_study[study])
            groups.setdefault(("study", study), _Group(study=study, fields=fields))
        source = _source(row, by_name)
        key = ("study", study) if is_single else (study, source, row[SETTINGS])
        groups.setdefault(key, _Group()).rows.append(row)
        keys[row["name"]] = key
    for group in groups.values():
        group.rows.sort(key=lambda row: (row["created"] or 0.0, row["name"]))
    positions = {key: position for position, key in enumerate(groups)}
    return [*groups.values()], {name: positions[key] for name, key in keys.items()}


def _source(row: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the nearest ancestor with other settings. Clones with another seed are in the same node as the run."""
    parent, seen = row["parent"], set()
    while parent in by_name and parent not in seen and by_name[parent][SETTINGS] == row[SETTINGS]:
        seen.add(parent)
        parent = by_name[parent]["parent"]
    return None if parent in seen else parent


def _differing(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the learning settings that differ between runs."""
    return tuple(n for n in LEARNING_FIELDS if len({str(row[n]) for row in rows}) > 1)


def _nearest(groups: Sequence[_Group], links: Mapping[int, Sequence[int]]) -> list[int]:
    """Order groups breadth-first, so that a cut leaves a connected graph."""
    neighbors: dict[int, list[int]] = {i: [] for i in range(len(groups))}
    for child, parents in links.items():
        for parent in parents:
            neighbors[child].append(parent)
            neighbors[parent].append(child)
    order: dict[int, None] = {}
    for start in range(len(groups)):
        pending = [start]
        while pending:
            order.update(dict.fromkeys(pending))
            pending = [n for group in pending for n in neighbors[group] if n not in order]
    return [*order]


def _node(group: _Group) -> Node:
    rows = group.rows
    if not rows:
        return Node(f"Study {group.study}", (), "", "", _link("studies?study=", group.study))
    names = tuple(row["name"] for row in rows)
    first = rows[0]
    is_single = len(rows) == 1
    color = first["color"] if is_single else ""
    if _combinations(rows) > 1:
        study = first["study"]
        return Node(f"Study {study}", names, "", _caption(rows), _link("studies?study=", study))
    others = len(rows) - 1
    more = "" if is_single else f" + {plural(others, 'run')}"
    return Node(
        first["name"] + more, names, color, _caption(rows), _link("run?name=", first["name"])
    )


def _link(address: str, name: str) -> str:
    return address + quote(name.encode("utf-8", "replace"), safe="")


def _combinations(rows: Sequence[Mapping[str, Any]]) -> int:
    return len({row[SETTINGS] for row in rows})


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the best validation loss: that of a run, the mean over several seeds, or the lowest in a study."""
    losses = [row[METRIC] for row in rows if row[METRIC] is not None]
    if not losses:
        return rows[0]["status"] if len(rows) == 1 else f"{len(rows):,} runs"
    if len(rows) == 1:
        return f"best loss {formats.loss(losses[0])}"
    if _combinations(rows) > 1:
        return f"{len(rows):,} runs, best loss {formats.loss(min(losses))}"
    return f"mean best loss {formats.loss(sum(losses) / len(losses))}"


def _edge(
    source: int,
    target: int,
    parent: _Group,
    child: _Group,
    effects: pd.DataFrame,
    noise: "Noise",
) -> Edge:
    """Describe a change, with its effect if both sides have several seeds, otherwise the difference of single runs."""
    if not parent.rows:
        return Edge(source, target, _values(child.rows[0], parent.fields))
    if _combinations(child.rows) > 1:
        return Edge(source, target, (f"{_combinations(child.rows):,} combinations",))
    new = child.rows[0]
    parent_name = new["parent"]
    old = next((row for row in parent.rows if row["name"] == parent_name), parent.rows[0])
    change = _changed(old, new, with_seed=len(child.rows) == 1)
    known = effect_text(effects, old, new, METRIC)
    if known:
        return Edge(source, target, change, known)
    if len(child.rows) > 1 or old["name"] != parent_name or None in (old[METRIC], new[METRIC]):
        return Edge(source, target, change)
    pair = pd.DataFrame([old, new])
    difference, is_noise = differences(pair, old, noise, pair[METRIC].astype(float)).iloc[1]
    if is_missing(difference):
        return Edge(source, target, change)
    text = difference_text(METRIC, difference)
    if is_noise:
        return Edge(source, target, change, f"{text}, within the noise", True)
    return Edge(source, target, change, f"{text}, single pair")


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], with_seed: bool) -> tuple[str, ...]:
    """Return the changed settings, at most MAX_CHANGES."""
    sides = [tuple(run[name] for name in changes.SETTINGS) for run in (old, new)]
    texts = changes.differences(*sides)
    if not with_seed:
        texts = [text for text in texts if not text.startswith("seed ")]
    return _cut(texts) or (changes.SAME,)


def _values(run: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    """Return the values of some settings on one line, such as `Rank 4 · Scaling alpha`."""
    texts = [
        f"{RunConfig.model_fields[name].title} {value_text(name, run[name])}"
        for name in fields
        if is_relevant(name, run)
    ]
    return (" \u00b7 ".join(_cut(texts)),) if texts else ()


def _cut(texts: Sequence[str], most: int = MAX_CHANGES) -> tuple[str, ...]:
    more = len(texts) - most
    return (*texts[:most], *([f"and {more:,} more"] if more > 0 else []))


def dot(lineage: Lineage, theme: str, focus: str = "") -> str:
    """Return the graph in the DOT language.

    Args:
        theme: `light` or `dark`.
        focus: the run whose node is emphasized.
    """
    colors = COLORS.get(theme, COLORS["light"])
    lines = [
        'digraph lineage { rankdir=LR bgcolor="transparent" nodesep=0.12 ranksep=0.3',
        f'node [shape=box style="rounded,filled" fillcolor="{colors["page"]}" color="{colors["line"]}" fontcolor="{colors["text"]}" '
        f'fontname="{FONT}" fontsize=13 margin="0.08,0.02" height=0.1 target="_self"]',
        f'edge [color="{colors["line"]}" fontcolor="{colors["caption"]}" fontname="{FONT}" '
        "fontsize=11 arrowsize=0.6]",
    ]
    for position, node in enumerate(lineage.nodes):
        lines.append(f"n{position} [{_node_attributes(node, colors, focus)}]")
    for edge in lineage.edges:
        rows = [_cell(text) for text in edge.change]
        if edge.result:
            color = colors["gray" if edge.is_gray else "text"]
            rows.append(_cell(edge.result, color))
        label = f" [label={_table(rows)}]" if rows else ""
        lines.append(f"n{edge.source} -> n{edge.target}{label}")
    return "\n".join([*lines, "}"])


def _node_attributes(node: Node, colors: Mapping[str, str], focus: str) -> str:
    name = html.escape(_shortened(node.title))
    dot_html = f'<FONT COLOR="{node.color}" POINT-SIZE="17">\u25cf</FONT> ' if node.color else ""
    is_focus = focus in node.runs
    title = f"{dot_html}<B>{name}</B>" if is_focus else f"{dot_html}{name}"
    rows = [f'<TR><TD ALIGN="LEFT">{_literal(title)}</TD></TR>']
    if node.caption:
        rows.append(_cell(node.caption, colors["caption"], 11))
    names = ", ".join(_cut(node.runs, MAX_TOOLTIP_NAMES))
    attributes = [f"label={_table(rows)}", f"tooltip={_quoted(names or node.title)}"]
    attributes.append(f"URL={_quoted(node.link)}")
    if is_focus:
        attributes.append(f'color="{colors["focus"]}" penwidth=2')
    return " ".join(attributes)


def _cell(text: str, color: str = "", size: int = 0) -> str:
    """Return a table row with literal text."""
    attributes = (f' COLOR="{color}"' if color else "") + (f' POINT-SIZE="{size}"' if size else "")
    content = _literal(html.escape(text))
    return f'<TR><TD ALIGN="LEFT">{f"<FONT{attributes}>{content}</FONT>" if attributes else content}</TD></TR>'


def _table(rows: Iterable[str]) -> str:
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1">{"".join(rows)}</TABLE>>'


def _literal(text: str) -> str:
    """Escape HTML text for DOT, which replaces sequences such as `\\N`. Control characters become spaces."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.replace("\\", "&#92;")


def _quoted(text: str) -> str:
    """Return a quoted DOT string that shows this text literally."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    escaped = printable.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{escaped}"'


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_NAME_CHARACTERS else f"{text[: MAX_NAME_CHARACTERS - 1]}\u2026"
