"""The command line: options in, messages and exit codes out."""

from __future__ import annotations

import click

from rys_gguf._version import __version__
from rys_gguf.cli.process import Command, Program

# The summaries stand here so that the list of commands imports none of them; a test holds them
# equal to the first lines of the commands' own help.
COMMANDS = {
    "inspect": Command(
        "rys_gguf.cli.patch:inspect", "Show a model's layers and which may be repeated."
    ),
    "plan": Command("rys_gguf.cli.patch:plan", "Show what apply would write."),
    "apply": Command("rys_gguf.cli.patch:apply", "Write a model with repeated layers."),
    "align": Command(
        "rys_gguf.cli.patch:align", "Rewrite a model so that its variants can share its blocks."
    ),
    "unapply": Command(
        "rys_gguf.cli.unapply:unapply", "Give back the model that a variant was made from."
    ),
    "companion": Command(
        "rys_gguf.cli.companion:companion", "Make what belongs to a model fit a variant of it."
    ),
    "recover": Command(
        "rys_gguf.cli.recover:recover", "Find the layer map of a variant that records none."
    ),
    "diff": Command("rys_gguf.cli.patch:diff", "Show how two GGUF headers differ."),
    "verify": Command("rys_gguf.cli.verify:verify", "Check a variant against its source."),
    "prove": Command(
        "rys_gguf.cli.prove:prove", "Prove in llama.cpp that every layer runs as its source."
    ),
    "smoke": Command("rys_gguf.cli.prove:smoke", "Test a model for loops and garbage."),
    "validate": Command(
        "rys_gguf.cli.prove:validate", "Run verify, load, prove and smoke in order."
    ),
    "probe": Command(
        "rys_gguf.cli.probe:probe", "Measure a model: math guesses, emotions, reasoning."
    ),
    "sweep": Command("rys_gguf.cli.search:sweep", "Find the windows worth repeating."),
    "report": Command("rys_gguf.cli.search:report", "Judge a sweep: verdicts, tables, maps."),
    "compare": Command(
        "rys_gguf.cli.search:compare", "Compare two sweeps, such as BF16 against quantised."
    ),
    "export": Command(
        "rys_gguf.cli.export:export",
        "Hand a sweep or a variant on, in the forms that other programs read.",
    ),
    "serve": Command(
        "rys_gguf.cli.serve:serve", "Serve a variant to other programs without writing it."
    ),
    "chat": Command(
        "rys_gguf.cli.serve:chat", "Talk to a variant in the terminal without writing it."
    ),
    "card": Command("rys_gguf.cli.card:card", "Write a Hugging Face model card for a variant."),
    "architectures": Command(
        "rys_gguf.cli.architectures:architectures",
        "Show how layers depend on their position, by architecture.",
    ),
}


@click.group(cls=Program, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rys-gguf")
def main() -> None:
    """Repeat layers of a GGUF model, and prove that the result computes what it should.

    A model is named by its path, or as hf:OWNER/REPO:QUANT or ollama:NAME:TAG.
    """
