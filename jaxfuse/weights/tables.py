"""Every public code whose weights can be read, by the name that commands give it."""

from __future__ import annotations

from jaxfuse.errors import UserError
from jaxfuse.weights import cddfuse, film, hinet, hyperdense, transformer, translation
from jaxfuse.weights.lines import OWN, Table

# The public code of Hi-Net was trained on images matched to one histogram per modality, and normalizes by the
# statistics of the patches that it is given; running ones are what its files hold.
_HINET = {"data.normalize": "histmatch"}
_RUN_OF_HINET = {"phase": "synthesis", "overrides": {**_HINET, "network.form.dtype": "float32"}}
TABLES: dict[str, Table] = {
    "hinet": Table("Hi-Net", (hinet.GENERATOR, hinet.CRITIC), "hinet:paper", **_RUN_OF_HINET, written_as="hinet_apart"),
    "hinet_apart": Table("Hi-Net", (hinet.APART, hinet.CRITIC), "hinet:paper", **_RUN_OF_HINET),
    "hyperdense": Table(
        "HyperDense-Net",
        (hyperdense.NET,),
        "hyperfusion:paper,row=baseline",
        "segmentation",
        {"network.form.dtype": "float32"},
    ),
    "pix2pix": Table("pix2pix", translation.PIX2PIX, "hinet:paper,row=pix2pix", "synthesis"),
    "cyclegan": Table("CycleGAN", translation.CYCLEGAN, "hinet:paper,row=cyclegan", "synthesis"),
    "cddfuse": Table("CDDFuse", (cddfuse.FUSION,)),
    "film": Table("IF-FILM", (film.FUSION,), written_as=OWN),
    "transunet": Table("TransUNet", (transformer.TRANSUNET,), written_as=OWN),
    "vit_r50": Table("R50+ViT of Google", (transformer.VIT,), written_as=OWN),
    "vit": Table("ViT of Google", (transformer.VIT_ALONE,), written_as=OWN),
}


def table_of(name: str) -> Table:
    """Returns a table by its name.

    Raises:
        UserError: there is none of this name.
    """
    if name not in TABLES:
        raise UserError(f"{name!r} is no table of public weights; choose one of {', '.join(TABLES)}")
    return TABLES[name]
