#!/usr/bin/env python3
"""Duplicates against the settling time D, a line for each number of hosts N.

Reads the merged table of a sweep over `cluster.settle` and `cluster.hosts`:

    clusterd-sim sweep --over cluster.hosts=2,4,8 --over cluster.settle=0s..1ms:250us \\
        --set cluster.rule=contest --set cluster.back_off=none --runs 5 --out points
    clusterd-sim merge points --out sweep.csv
    sim/plot.py sweep.csv duplicates.svg

Needs pandas and matplotlib, nothing of this project.
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

SETTLE = "cluster.settle_us"
HOSTS = "cluster.hosts"


def duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """The share of connections that more than one host has answered, over all runs of a point.

    Runs are summed up: duplicates are rare, and most single runs have none.
    """
    points = table.groupby([HOSTS, SETTLE])[["answered_twice", "connections"]].sum()
    points["share"] = points["answered_twice"] / points["connections"]
    # Without any, all that is known is an upper bound (95 %: the rule of three).
    points["bound"] = 3 / points["connections"]
    return points.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="what `clusterd-sim merge` has written")
    parser.add_argument("figure", help="file to draw into: .svg, .pdf or .png")
    arguments = parser.parse_args()

    table = pd.read_csv(arguments.table)
    missing = {HOSTS, SETTLE, "answered_twice", "connections"} - set(table.columns)
    if missing:
        parser.error(f"{arguments.table} has no column {', '.join(sorted(missing))}")
    others = [it for it in table.columns[1 : table.columns.get_loc("run")] if it not in (HOSTS, SETTLE)]
    if others:
        parser.error(f"{arguments.table} also varies {', '.join(others)}: choose rows of one value")

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for hosts, points in duplicates(table).groupby(HOSTS):
        seen = points[points["answered_twice"] > 0]
        unseen = points[points["answered_twice"] == 0]
        (line,) = axes.plot(seen[SETTLE], seen["share"], marker="o", label=f"N = {hosts}")
        axes.plot(unseen[SETTLE], unseen["bound"], linestyle="", marker="v",
                  markerfacecolor="none", color=line.get_color())
    axes.set_yscale("log")
    axes.set_xlabel("settling time D (µs)")
    axes.set_ylabel("connections answered by more than one host")
    axes.set_title("Duplicates against D; open triangles: none seen, 95 % upper bound", fontsize=10)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(arguments.figure)


if __name__ == "__main__":
    main()
