"""The checker of annotations while tests run; `conftest.py` names it to jaxtyping's import hook."""

from beartype import BeartypeConf, beartype

# The tower lets an int stand where a float is expected, as PEP 484 and pyright do.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
