"""`python -m jaxfuse.convert`: weights of others become runs, and weights of runs go out; refusals."""

import nibabel as nib
import numpy as np
import pytest

from configs import hinet
from jaxfuse import convert
from jaxfuse.weights.tables import TABLES
from tests.commands import call, call_here
from tests.engine.conversion.public_files import public_file
from tests.made_cases import head, write_case
from tests.refusals import refused


def refuses(message, *arguments, **options):
    refused(message, call_here, convert, *arguments, **options)


def test_tables_are_listed(capsys):
    call_here(convert, list=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TABLES)


def test_wrong_calls_are_refused(tmp_path):
    path = public_file(tmp_path, "cddfuse")
    refuses("either --weights FILE, to read it, or --run RUN", to="hinet")
    refuses("--to is not given", weights=path)
    refuses("'x' is no table of public weights; choose one of hinet", weights=path, to="x", workdir=tmp_path / "run")
    refuses("either --workdir RUN, for a run, or --output FILE", weights=path, to="hinet")
    refuses(
        "of CDDFuse make no run .* --config.PHASE.start=cddfuse:FILE",
        weights=path,
        to="cddfuse",
        workdir=tmp_path / "r",
    )
    refuses("--overwrite is an option of --output", weights=path, to="hinet", workdir=tmp_path / "r", overwrite=True)
    refuses("sizes of CDDFuse are those of a recipe", weights=path, to="cddfuse", output=tmp_path / "a.npz")
    refuses("--workdir is an option of --weights", run=tmp_path, to="hinet", workdir=tmp_path)
    refuses("--output is not given", run=tmp_path, to="hinet")


def test_a_recipe_that_prepares_cases_in_another_way_is_told():
    named = hinet.get_config("paper,data=t2")
    (told,) = convert.others(named, TABLES["hinet"])
    assert told.startswith("--config.data.normalize is 'minmax', and Hi-Net has 'histmatch'")
    named.data.normalize = "histmatch"
    assert convert.others(named, TABLES["hinet"]) == []
    assert convert.others(named, TABLES["pix2pix"]) == []


@pytest.mark.slow
def test_a_public_file_predicts_and_goes_out_again(tmp_path):
    path = public_file(tmp_path, "hinet")
    made = call(
        "convert", "--weights", str(path), "--to=hinet", "--config=hinet:tiny", "--workdir=run", folder=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert "drawn, as no file has them: discriminator" in made.stdout
    images = head((30, 26, 4), 0)
    write_case(tmp_path / "in", "a", {name: images[name] for name in ("t1", "t2")})
    done = call("predict", "--workdir=run", "--input=in", "--output=out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    volume = np.asanyarray(nib.load(tmp_path / "out" / "a_flair.nii.gz").dataobj)
    assert 0 <= volume.min() < volume.max() <= 1
    out = call("convert", "--run=run", "--to=hinet_apart", "--output=weights", folder=tmp_path)
    assert out.returncode == 0, out.stderr
    assert sorted(path.name for path in (tmp_path / "weights").glob("*.safetensors")) == [
        "discriminator.safetensors",
        "generator.safetensors",
    ]
    again = call("train", "--config=hinet:tiny", "--workdir=run", folder=tmp_path)
    assert again.returncode == 2
    assert "nothing is trained there" in again.stderr
