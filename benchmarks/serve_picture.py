"""The picture of what the service costs: a panel for each part that has been measured."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.serve_figures import UPLOAD_GROWTH_LIMIT

_STEPS = {
    "submit": ("sending and checking", "#4c78a8"),
    "queued": ("waiting for the runner", "#9ecae9"),
    "work": ("restoring and publishing", "#f58518"),
    "rest": ("noticing", "#bab0ac"),
    "download": ("downloading", "#54a24b"),
}
_DATABASES = {"sqlite": ("SQLite", "#4c78a8"), "postgresql": ("PostgreSQL", "#f58518")}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw what results hold; panels of parts that were never measured stay out."""
    panels: dict[str, Callable[[Axes, Any], None]] = {
        "latency": _draw_latency,
        "control": _draw_control,
        "replicas": _draw_replicas,
        "uploads": _draw_uploads,
        "fronts": _draw_fronts,
    }
    shown = [part for part in panels if part in results]
    if not shown:
        return
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.2 * columns, 4.2 * rows), layout="constrained", squeeze=False)
    for part, panel in zip(shown, axes.flat, strict=False):
        panels[part](panel, results[part])
        panel.spines[["top", "right"]].set_visible(False)
    for unused in axes.flat[len(shown) :]:
        unused.set_axis_off()
    loads = [loads[0] for loads in results["load_average"].values()]
    machine = results["machine"]
    busy = f"load average {min(loads):g}" + (f" to {max(loads):g}" if max(loads) > min(loads) else "")
    figure.suptitle(f"{machine['cores']} cores, {machine['processor']}; {busy}", fontsize=9, color="0.4")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_latency(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        bare, served = row["bare_milliseconds"]["median"], row["served_milliseconds"]["median"]
        axes.barh(2.4 * index, bare, color="0.6", label="bare restore_video" if index == 0 else None)
        steps = dict(row["median_milliseconds_of"])
        steps["rest"] = max(0.0, served - sum(steps.values()))
        left = 0.0
        for name, (label, colour) in _STEPS.items():
            axes.barh(2.4 * index + 0.9, steps[name], left=left, color=colour, label=label if index == 0 else None)
            left += steps[name]
        axes.annotate(f" +{row['added_milliseconds']:.0f} ms", (left, 2.4 * index + 0.9), va="center", fontsize=9)
    axes.set_yticks(
        [2.4 * index + offset for index in range(len(rows)) for offset in (0, 0.9)],
        [f"{row['model']}, {way}" for row in rows for way in ("bare", "service")],
    )
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="milliseconds, medians", title="One small job")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _draw_control(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = {(row["clients"], row["source"], row["waiting_before"]): _name_of_load(row) for row in rows}
    kinds = [kind for kind in _DATABASES if any(row["database"] == kind for row in rows)]
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        label, colour = _DATABASES[kind]
        found = {
            (row["clients"], row["source"], row["waiting_before"]): row["jobs_per_second"]
            for row in rows
            if row["database"] == kind
        }
        places = [index + (number - (len(kinds) - 1) / 2) * width for index in range(len(names))]
        bars = axes.bar(places, [found.get(load, 0.0) for load in names], width, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(range(len(names)), list(names.values()), fontsize=8)
    axes.margins(y=0.15)
    axes.set(ylabel="jobs per second", title="Submit and look, no model running")
    axes.legend(fontsize=8, frameon=False)


def _name_of_load(row: Mapping[str, Any]) -> str:
    clients = f"{row['clients']} client{'s' if row['clients'] > 1 else ''}"
    if row["source"] == "upload":
        return f"{clients},\nfile inspected"
    return clients + (f",\n{row['waiting_before']} waiting" if row["waiting_before"] else "")


def _draw_replicas(axes: Axes, rows: list[dict[str, Any]]) -> None:
    sizes = [row["replicas"] for row in rows]
    axes.plot(sizes, sizes, color="0.7", linestyle="--", label="as many times as there are replicas")
    axes.plot(sizes, [row["speedup"] for row in rows], marker="o", color="#4c78a8", label="against one replica")
    for row in rows:
        axes.annotate(
            f"{row['speedup']:.2f}", (row["replicas"], row["speedup"]), (6, -12), textcoords="offset points", fontsize=8
        )
    axes.set_xticks(sizes)
    axes.set(xlabel="replicas, their devices simulated", ylabel="throughput", title="One video on many replicas")
    axes.legend(fontsize=8, frameon=False)


def _draw_uploads(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for row, colour in zip(rows, ("#4c78a8", "#f58518"), strict=False):
        curve = [(0.0, 0.0), *row["ingress_growth_megabytes_by_second"]]
        label = f"{row['protocol']}, at most {row['ingress_growth_bytes'] / 1e6:.0f} MB"
        axes.plot(*zip(*curve, strict=True), color=colour, label=label)
    limit = UPLOAD_GROWTH_LIMIT / 1e6
    axes.axhline(limit, color="#e45756", linestyle="--", linewidth=1)
    axes.annotate("limit", (0, limit), (2, 4), textcoords="offset points", color="#e45756", fontsize=8)
    axes.set(
        xlabel="seconds",
        ylabel="MB",
        title=f"Growth of the ingress while {rows[0]['num_bytes'] / 1e6:.0f} MB arrive",
        ylim=(0.0, 1.3 * max(limit, *(row["ingress_growth_bytes"] / 1e6 for row in rows))),
    )
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _draw_fronts(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        left = 0.0
        look = row["cpu_milliseconds_per_look_by_waiting"]["0"]
        for part, colour in (("ingress", "#4c78a8"), ("proxy", "#f58518"), ("nginx", "#54a24b")):
            axes.barh(index, look.get(part, 0.0), left=left, color=colour, label=part if row is rows[-1] else None)
            left += look.get(part, 0.0)
        axes.annotate(f" {left:.1f} ms", (left, index), va="center", fontsize=9)
    axes.axvline(8, color="0.6", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"through {row['front']}" for row in rows])
    axes.set_xlabel("ms of processor per look at a job; dotted: the goal")
    axes.legend(frameon=False, fontsize=8)
