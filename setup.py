"""The one thing that pyproject.toml cannot say: the recipes of configs/ lie within the installed package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxfuse", "jaxfuse.*"]), "jaxfuse.configs"],
    package_dir={"jaxfuse.configs": "configs"},
)
