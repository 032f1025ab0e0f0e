"""`bench doctor`: whether a machine, a judge and a model can be believed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from bench.cli.console import echo
from bench.cli.options import json_option, plugin_option, plugins, quiet
from bench.measure.doctor import Finding, examine


@click.command()
@click.argument("model", required=False)
@click.option("--dtype", default="auto", show_default=True, help="float32, bfloat16, float16.")
@click.option("--judge", default="", help="Ask this judge, too: openai:MODEL is asked for one token.")
@plugin_option
@json_option
def doctor(model: str | None, dtype: str, judge: str, late: tuple[Path, ...], as_json: bool) -> None:
    """Whether this machine, its cache, a judge and a MODEL can be believed."""
    plugins(late)
    found: list[Finding] = []
    part = ""
    with quiet():
        for finding in examine(model or "", dtype, judge):
            found.append(finding)
            if as_json:
                continue
            if finding.part != part:
                part = finding.part
                echo(f"{part}:")
            mark = " " if finding.well else "!"
            echo(f" {mark} {finding.name}: {finding.said}")
    if as_json:
        echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    if not all(finding.well for finding in found):
        sys.exit(1)
