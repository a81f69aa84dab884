"""The command line: one verb a step of the path from recordings to a report.

Everything heavy is imported inside the verb that needs it, so ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

import tyro

from latentcast.cli.arguments import Verbs, apart_from_script
from latentcast.cli.data import convert, ingest, inspect, label
from latentcast.cli.embedding import embed, similar
from latentcast.cli.evaluation import evaluate, export, probe, report, runs
from latentcast.cli.serving import serve, view
from latentcast.cli.supervised import finetune, predict
from latentcast.cli.training import bench, masks, models, recipes, train
from latentcast.cli.verification import verify, watch
from latentcast.errors import LatentcastError

VERBS: Verbs = {
    verb.__name__: verb
    for verb in (
        ingest, label, inspect, convert, recipes, models, masks, train, runs, probe, evaluate,
        finetune, predict, embed, similar, view, serve, report, export, bench, verify, watch,
    )
}  # fmt: skip


def main() -> None:
    """Entry point of the ``latentcast`` command."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"latentcast {metadata.version('latentcast')}")
        sys.exit(0)
    try:
        status: int | None = tyro.extras.subcommand_cli_from_dict(
            VERBS,
            args=apart_from_script(arguments, VERBS),
            prog="latentcast",
            description="Self-supervised pretraining by prediction in latent space; --version "
            "prints the version.",
        )
    except LatentcastError as problem:
        from latentcast.errors import printable

        print(printable(f"latentcast: {problem}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        again = "; the same command goes on" * (arguments[:1] in (["ingest"], ["train"], ["embed"]))
        print(f"latentcast: stopped{again}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read us has enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(status or 0)
