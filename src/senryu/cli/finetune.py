"""What `senryu train sft` takes and does with --model: fine-tune an open-weight checkpoint instead of a recipe's net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any

import typer

from senryu.cli.output import say

_PANEL = "An open-weight checkpoint in place of a recipe"


def _option(text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=_PANEL, show_default=False, **limits)


Model = Annotated[str | None, _option("mini, path:DIR or hf:ORG/REPO; --data is then a file of conversations, JSON Lines.")]
Lora = Annotated[
    bool | None, _option("Train low-rank additions to the matrices, merged at the end; else all weights.", "--lora")
]
Rank = Annotated[int | None, _option("Of the additions [16].", min=1)]
Alpha = Annotated[int | None, _option("The additions count alpha / rank [32].", min=1)]
Dropout = Annotated[float | None, _option("Of the additions' inputs [0].", min=0)]
Targets = Annotated[str | None, _option("Linear layers with additions, as q_proj,v_proj [all].")]
Rate = Annotated[float | None, _option("Peak learning rate [2e-4 with --lora, else 2e-5].", min=0)]
BatchTokens = Annotated[int | None, _option("Tokens of a step [4096; of little data fewer].", min=1)]
MicroTokens = Annotated[int | None, _option("Tokens of a forward pass [2048]; fewer take less memory.", min=1)]
Longest = Annotated[int | None, _option("Tokens of a conversation; longer ones are left out [2048].", min=2)]
Epochs = Annotated[float | None, _option("Times through the data [3, unless --tokens or --minutes].", min=0)]
Tokens = Annotated[int | None, _option("Tokens to train on.", min=1)]
HeldOut = Annotated[float | None, _option("Part of the conversations to measure by, before and after [0.05].", min=0)]
Seed = Annotated[int | None, _option("Of the order, the additions and the draw of what is held out [0].")]
OPTIONS = ("lora", "rank", "alpha", "dropout", "targets", "learning_rate", "batch_tokens", "micro_tokens", "longest", "epochs",
           "tokens", "held_out", "seed")  # fmt: skip


def finetune(given: Mapping[str, Any], device: Any) -> None:
    """Fine-tune with the command's options, show the progress, then say what came out. Raises RecipeError."""
    from senryu.cli.progress import shown
    from senryu.config import load_settings
    from senryu.train.adapters import finetune_checkpoint
    from senryu.train.finetune import STAGE, FinetuneOptions

    known = {field.name for field in fields(FinetuneOptions)}
    options = {name: value for name, value in given.items() if name in known and value is not None}
    if "targets" in options:
        options["targets"] = tuple(options["targets"].split(","))
    options |= {"device": device, "home": load_settings().home}
    with shown() as view:
        done = finetune_checkpoint(FinetuneOptions(**options), view)
        view.done(STAGE, asdict(done.progress))
    say(f"{done.conversations} conversations, {done.held_out} more held out, {done.left_out} too long")
    if done.loss_before is not None:
        say(f"held-out loss, nats per token of the answers: {done.loss_before:.3f} before, {done.loss_after:.3f} after")
    say(f"serve it: senryu serve --model path:{done.exported}")
