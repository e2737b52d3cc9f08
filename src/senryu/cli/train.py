"""`senryu train`: a recipe and text in, a model folder out. Commands are calls into train/, which alone imports torch."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from senryu.cli import constitution
from senryu.cli import finetune as checkpoints
from senryu.cli.output import print_json, print_table, say
from senryu.errors import SenryuError

if TYPE_CHECKING:
    from senryu.train.recipe import Recipe
    from senryu.train.run import Run

app = typer.Typer(
    help="Train a model: from text to a folder that serves. `senryu train all RECIPE --data DIR --out RUN` is everything.",
    no_args_is_help=True,
)

app.add_typer(constitution.app, name="constitution")

RecipePath = Annotated[
    Path | None,
    typer.Argument(metavar="[RECIPE]", help="For example recipes/nano.toml; without it RUN/recipe.toml.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of this run: checkpoints, logs, the model.")]
Data = Annotated[
    Path, typer.Option("--data", "-d", help="Folder that the recipe's paths start from.", file_okay=False, exists=True)
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Minutes = Annotated[
    float | None,
    typer.Option(min=0, help="Wall-clock budget: the learning rate decays in time for it.", show_default=False),
]
NoCompile = Annotated[bool, typer.Option("--no-compile", help="Without torch.compile: slower, starts at once.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="FROM", help="Start from a stage, or from a model: mini or path:DIR [the stage before].",
        show_default=False,
    ),
]  # fmt: skip
Params = Annotated[
    str | None,
    typer.Option(
        help="The dial: 7m, 14m, 29m or 61m, or auto with --minutes; shape, tokens, batch and rates follow.", show_default=False
    ),
]
COMMANDS = {  # those that run stages of the recipe: the stages, and what they do
    "pretrain": (("pretrain",), "Prepare data and tokenizer where missing, then pretrain."),
    "long": (("long",), "Go on with long rows: long documents, and answers to be found in long texts."),
    "constitutional": (("constitutional",), "Answers are criticised and revised by a constitution; train on the revisions."),
    "preference": (("reward", "dpo", "rl"), "Reward model, DPO and learning from rewards: those that the recipe has."),
}


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


@contextlib.contextmanager
def _session(device: str, no_compile: bool) -> Iterator[dict[str, Any]]:
    """Where a command computes, as options of a run. Under torchrun, as one of its processes."""
    with trainable():
        from senryu.train.device import choose_device
        from senryu.train.parallel import joined

        with joined(choose_device(device, compile=not no_compile)) as (part, chosen):
            yield {"device": chosen, "part": part}


@contextlib.contextmanager
def trainable() -> Iterator[None]:
    """Raises SenryuError for a missing torch, and for a recipe or data that cannot be used."""
    if importlib.util.find_spec("torch") is None:
        raise SenryuError("no_torch")
    from senryu.train.recipe import RecipeError

    try:
        yield
    except (RecipeError, FileNotFoundError, FloatingPointError) as error:
        raise SenryuError("untrainable", why=str(error)) from error


def open_run(recipe: Recipe | None, data: Path, out: Path, origin: str | None, **options: Any) -> Run:
    """The run of a command's arguments; its recipe is kept in the run's folder."""
    from senryu.config import load_settings
    from senryu.train.loop import RunOptions
    from senryu.train.run import Run, settle
    from senryu.train.stages import check

    start = _origin(origin)
    settled = settle(recipe, out, start)
    check(settled)
    return Run(settled, data, RunOptions(out, **options), start, load_settings().downloads)


def _origin(origin: str | None) -> str | Path | None:
    """A stage by its name, or the folder of a model."""
    from senryu.config import load_settings
    from senryu.model.hub import resolve
    from senryu.train.recipe import STAGES

    if origin is None or origin in STAGES:
        return origin
    return resolve(origin, load_settings().home).path


def read_recipe(path: Path | None) -> Recipe | None:
    from senryu.train.recipe import load_recipe

    return None if path is None else load_recipe(path)


def _planned(path: Path | None, out: Path | None, size: str | None, minutes: float | None, device: Any) -> Recipe:
    """The recipe of a whole run, under the dial or a budget where one is given, after its table was shown."""
    from senryu.train import dial
    from senryu.train.recipe import RecipeError, load_recipe, with_minutes

    if path is None and out is None:
        raise RecipeError("there is nothing to plan; name a recipe, for example recipes/nano.toml")
    recipe, speed = load_recipe(path or Path(out or "", "recipe.toml")), None

    def probe(net: Any) -> dial.Speed:
        say(f"measuring this machine at {dial.parameters(net) / 1e6:.1f} M parameters ...")
        return dial.measure(net, recipe.pretrain, device)

    if size is not None:
        recipe, speed = dial.turn(recipe, dial.Setting(size, minutes), probe)
    elif minutes is not None:
        recipe = with_minutes(recipe, minutes)
    print_table(("", ""), dial.table(recipe, speed))
    return recipe


def _stage(name: str) -> None:
    """Adds the command of one stage."""

    @app.command(name, help=COMMANDS[name][1])
    def command(
        data: Data,
        out: Out,
        recipe: RecipePath = None,
        resume: Resume = False,
        minutes: Minutes = None,
        origin: From = None,
        device: Device = "auto",
        no_compile: NoCompile = False,
    ) -> None:
        with _session(device, no_compile) as where:
            _go(open_run(read_recipe(recipe), data, out, origin, resume=resume, minutes=minutes, **where), COMMANDS[name][0])


for _name in COMMANDS:
    _stage(_name)


@app.command("sft")
def sft(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Folder that the recipe's paths start from; with --model a file.", exists=True)
    ],
    out: Out,
    recipe: RecipePath = None,
    resume: Resume = False,
    minutes: Minutes = None,
    origin: From = None,
    device: Device = "auto",
    no_compile: NoCompile = False,
    model: checkpoints.Model = None,
    lora: checkpoints.Lora = None,
    rank: checkpoints.Rank = None,
    alpha: checkpoints.Alpha = None,
    dropout: checkpoints.Dropout = None,
    targets: checkpoints.Targets = None,
    learning_rate: checkpoints.Rate = None,
    batch_tokens: checkpoints.BatchTokens = None,
    micro_tokens: checkpoints.MicroTokens = None,
    longest: checkpoints.Longest = None,
    epochs: checkpoints.Epochs = None,
    tokens: checkpoints.Tokens = None,
    held_out: checkpoints.HeldOut = None,
    seed: checkpoints.Seed = None,
) -> None:
    """Fine-tune on conversations, with loss on what the assistant says: a recipe's net, or with --model a checkpoint."""
    given = context.params
    if model is None:
        if wrong := next((name for name in checkpoints.OPTIONS if given[name] is not None), None):
            raise SenryuError("untrainable", why=f"{wrong} is for an open-weight checkpoint: name it with --model")
        if not data.is_dir():
            raise SenryuError("untrainable", why=f"--data {data} is no folder; a file of conversations goes with --model")
    elif recipe is not None or origin is not None or no_compile:
        raise SenryuError("untrainable", why="--model goes without a recipe, --from and --no-compile: leave them out")
    with _session(device, no_compile or model is not None) as where:
        if model is None:
            _go(open_run(read_recipe(recipe), data, out, origin, resume=resume, minutes=minutes, **where), ("sft",))
        elif where["part"].world > 1:
            raise SenryuError("untrainable", why="a checkpoint is fine-tuned by one process: start it without torchrun")
        else:
            checkpoints.finetune(given, where["device"])


@app.command("all")
def train_everything(
    data: Data,
    out: Out,
    recipe: RecipePath = None,
    params: Params = None,
    minutes: Minutes = None,
    resume: Resume = False,
    origin: From = None,
    device: Device = "auto",
    no_compile: NoCompile = False,
) -> None:
    """All stages of the recipe, one after the other; --minutes is shared out between them."""
    with _session(device, no_compile) as where:
        from senryu.train.parallel import first_alone

        if resume and (out / "recipe.toml").exists():
            params = minutes = recipe = None  # a run goes on as it was planned
        with first_alone(where["part"]):
            first = where["part"].rank == 0  # it plans and measures for all processes
            planned = _planned(recipe, out, params, minutes, where["device"]) if first else None
            run = open_run(planned, data, out, origin, resume=resume, **where)
        _go(run, None)


def _go(run: Run, names: tuple[str, ...] | None) -> None:
    """Run stages with their progress shown; then say how to serve what came out."""
    from dataclasses import asdict, replace

    from senryu.cli.progress import shown
    from senryu.train.stages import train_all

    if run.options.part.rank > 0:
        list(train_all(run, names))
        return
    undrawn = None
    with shown() as view:
        for name, progress in train_all(replace(run, options=replace(run.options, report=view), prepared=view.prepared), names):
            undrawn = _draw(run, name)
            view.done(name, asdict(progress))
    if undrawn is not None:
        say(f"no loss.png: {undrawn}")
    say(f"serve it: senryu serve --model path:{run.out / 'model'}")


def _draw(run: Run, name: str) -> str | None:
    """The stage's `loss.png`, with those before it; or why there is none."""
    from senryu.evals.plot import draw_stages
    from senryu.train.history import read_log
    from senryu.train.recipe import STAGES

    logs = {stage: read_log(run.out / stage) for stage in STAGES[: STAGES.index(name) + 1]}
    try:
        draw_stages(logs, f"{run.recipe.name}, up to {name}", run.out / name / "loss.png")
    except SenryuError as error:
        return str(error)
    return None


@app.command("plan")
def plan(
    recipe: RecipePath = None,
    params: Params = None,
    minutes: Minutes = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="Keep the plan as RUN/recipe.toml.", show_default=False)
    ] = None,
    device: Device = "auto",
    no_compile: NoCompile = False,
) -> None:
    """Show what a recipe trains, or what the dial makes of it for a size or a budget; nothing is trained."""
    with trainable():
        from senryu.train.device import choose_device
        from senryu.train.run import settle

        planned = _planned(recipe, out, params, minutes, choose_device(device, compile=not no_compile))
        if out is not None:
            settle(planned, out)


@app.command("export")
def export(
    out: Out,
    to: Annotated[Path, typer.Option(help="Folder of the exported model.")],
    stage: Annotated[str, typer.Option(help="Whose last checkpoint.")] = "sft",
) -> None:
    """Write a stage's last checkpoint as a Hugging Face folder."""
    with trainable():
        from senryu.train.run import export_stage

        export_stage(out, stage, to)
        say(f"serve it: senryu serve --model path:{to}")


@app.command("report")
def report(out: Out, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What was trained: stages, tokens, time, first and last loss."""
    from senryu.cli.progress import clock
    from senryu.train.history import read_run

    stages = read_run(out)
    if json:
        print_json(stages)
        return
    columns = ("stage", "from", "steps", "tokens", "time", "tokens/s", "first loss", "last loss")
    rows = [
        [s["stage"], s["start"], s["step"], f"{s['tokens'] / 1e6:.2f}M", clock(s["seconds"]), f"{s['rate']:,.0f}", *s["losses"]]
        for s in stages
    ]
    print_table(columns, rows)
