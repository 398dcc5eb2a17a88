"""The option by which commands are told of a post-processing, and the name of its file in the folder of a run."""

FILE = "postprocessing.json"
OPTION = "postprocessing"
AUTO, NONE = "auto", "none"
HELP = (
    "Runs that label: thresholds of probabilities, and steps on label maps. auto: those that jaxfuse.postprocess chose "
    "for the run, where it did; none; or the file of a plan."
)
