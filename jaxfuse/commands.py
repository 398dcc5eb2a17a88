"""The commands of jaxfuse: `jaxfuse NAME` is `python -m jaxfuse.NAME`. A new command is a line here."""

from __future__ import annotations

from collections.abc import Mapping

# Name of the module -> what the command does, in the order in which one meets them.
COMMANDS: Mapping[str, str] = {
    "train": "trains the phases of a recipe, or goes on; judges them; writes tables, figures and a report",
    "predict": "labels cases with a trained run, or makes the modality that it synthesizes",
    "postprocess": "chooses a post-processing of label maps on the validation cases of a run",
    "evaluate": "scores predictions of any origin",
    "verify": "lists the cases of a data set and every problem in it",
    "describe": "tells what a recipe builds: parameters, presets, rows, memory and cost of a step",
    "benchmark": "times compilation, the training step and the loader",
    "impute": "completes cases that lack modalities, then segments them",
    "export": "exports a trained run, so that it predicts without jaxfuse",
    "fuse": "fuses registered images of one subject into one",
    "convert": "reads weights that others have trained into a run, and writes those of a run under their names",
    "brats_fuse": "builds the data set BraTS-Fuse",
    "env": "prints versions, devices, caches and the last error, for a report of a fault",
    "completion": "prints the script by which bash, zsh or fish completes jaxfuse",
}


def module_of(name: str) -> str:
    """Returns the module that runs a command."""
    return f"jaxfuse.{name}"
