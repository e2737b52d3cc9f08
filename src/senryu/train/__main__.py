"""`python -m senryu.train pretrain|sft|export RECIPE --out DIR`: the training commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from senryu.train.checkpoint import load_weights
from senryu.train.device import choose_device
from senryu.train.export import export
from senryu.train.loop import RunOptions
from senryu.train.net import Net
from senryu.train.parallel import joined
from senryu.train.recipe import RecipeError, load_recipe
from senryu.train.stages import finetune, pretrain


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m senryu.train", description="Train a model from a recipe.")
    verbs = top.add_subparsers(dest="verb", required=True)
    texts = {
        "pretrain": "prepare data and tokenizer where missing, then pretrain",
        "sft": "fine-tune on conversations, then export to OUT/model",
    }
    for verb, text in texts.items():
        command = verbs.add_parser(verb, help=text, description=text)
        _common(command)
        command.add_argument("--data", type=Path, required=True, help="folder of the data bundle (pretrain/, sft/)")
        command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
        command.add_argument("--minutes", type=float, help="time budget: the decay starts by the clock")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        command.add_argument("--no-compile", action="store_true", help="without torch.compile: slower, starts at once")
    command = verbs.add_parser("export", help="write a checkpoint as a Hugging Face folder")
    _common(command)
    command.add_argument("--to", type=Path, required=True, help="folder of the exported model")
    command.add_argument("--stage", choices=("pretrain", "sft"), default="sft", help="whose last checkpoint")
    return top


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, help="for example recipes/nano.toml")
    command.add_argument("--out", type=Path, required=True, help="folder of this training run")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Raises SystemExit with a message for a recipe or data that cannot be used."""
    args = parser().parse_args(arguments)
    try:
        recipe = load_recipe(args.recipe)
        if args.verb == "export":
            net = Net(recipe.net)
            load_weights(args.out / args.stage / "last.pt", net)
            export(net, args.out / "data", args.to)
            return
        with joined(choose_device(args.device, compile=not args.no_compile)) as (part, device):
            options = RunOptions(args.out, args.resume, args.minutes, device=device, part=part)
            (pretrain if args.verb == "pretrain" else finetune)(recipe, args.data, options)
    except (RecipeError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
