"""Subcommands about models: make a run's first one, check what is stored, write one out.

Only `init-model`, and `export` where it scores models, load torch.
"""

# ruff: noqa: PLC0415 - imports stand inside the commands: `--help` answers at once

from pathlib import Path
from typing import Annotated

import typer

from adpfl_server.operating.config_option import ConfigOption, load


def add_models(app: typer.Typer) -> None:
    """Add `init-model`, `verify-store` and `export`.

    Args:
        app: the command.
    """
    app.command("init-model")(init_model)
    app.command("verify-store")(verify_store)
    app.command()(export)


def init_model(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of the configuration.")],
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: where the server looks for it."),
    ] = None,
) -> None:
    """Make a run's initial weights from its seed.

    The daemon does so by itself where they are absent, if torch is installed.

    Example: adpfl-server init-model lesions-1
    """
    from adpfl.errors import StateError

    settings = load(config, context)
    entry = settings.entry(run)
    path = output or settings.initial_model_path(run)
    if path.exists():
        raise StateError(f"{path}: exists already; it is never overwritten")
    from adpfl.learning.initial_model import write_initial_model  # loads torch, which takes seconds

    write_initial_model(entry.plan, path)
    typer.echo(f"wrote {path}")


def verify_store(
    context: typer.Context,
    config: ConfigOption = None,
    restore: Annotated[
        list[Path] | None,
        typer.Option(
            "--restore",
            metavar="FILE",
            help="An export, or a site's received model, to mend damage from; repeatable.",
        ),
    ] = None,
) -> None:
    """Read all that is stored, and name what is damaged.

    The database and every chunk; the daemon may be running.

    With --restore, damaged and missing chunks are put back where the file has them; a waiting run goes on by
    itself. Exit code 1 where something is damaged still.

    Example: adpfl-server verify-store --restore round-0007.safetensors
    """
    from adpfl_server.storage.verification import verify_store as verify

    found = verify(load(config, context), tuple(restore or ()))
    if found.restored:
        typer.echo(f"put back {found.restored} chunk(s)")
    for damage in found.damaged:
        typer.echo(f"damaged: {damage}", err=True)
    if found.damaged:
        raise typer.Exit(1)
    typer.echo(f"ok: the database, {found.objects} models and updates, {found.chunks} chunks")


def export(
    context: typer.Context,
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="The safetensors file to write.")] = None,
    config: ConfigOption = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="DIR", help="Write a folder that MONAI loads, and not a file."),
    ] = None,
    round_number: Annotated[
        int | None, typer.Option("--round", min=0, metavar="N", help="The model after this round, if kept.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="The newest model, where a run averages too.")] = False,
    averaged: Annotated[bool, typer.Option("--averaged", help="The average, or an error.")] = False,
    best: Annotated[
        bool, typer.Option("--best", help="The kept model that scores highest on --validation; loads torch.")
    ] = False,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", metavar="DIR", help="Public images and masks to score models on."),
    ] = None,
) -> None:
    """Write a run's global model to a file or a folder.

    What the run publishes so far, or the model that the options name.

    --best scores every kept model (`keep_models`) on a public folder, and writes a table of all scores beside
    the best one. The folder must be public: scores of private images are not charged to any budget.

    Example: adpfl-server export lesions-1 lesions-1.safetensors

    Example: adpfl-server export lesions-1 --bundle best --best --validation public-images
    """
    from adpfl.errors import ConfigError
    from adpfl_server.operating.export import chosen, export_model

    path = bundle or out
    if path is None or (bundle and out):
        raise ConfigError("export needs OUT or --bundle DIR, and one of them alone")
    if best or validation is not None:
        if not best or last or averaged or round_number is not None:
            raise ConfigError("--best goes with --validation, and without --round, --last and --averaged")
        from adpfl_server.operating.best_model import export_best

        settings = load(config, context)
        is_bundle = bundle is not None
        typer.echo(export_best(settings, run, path, validation, bundle=is_bundle, say=typer.echo))
        return
    choice = chosen(round_number=round_number, last=last, averaged=averaged)
    typer.echo(export_model(load(config, context), run, path, choice=choice, bundle=bundle is not None))
