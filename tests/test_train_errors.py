"""A user's mistake: one plain sentence, exit code 2, no traceback, and nothing that was written is lost."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import jaxfuse.data.pipeline  # noqa: F401  (its library defines flags, which must be there when flags are saved)
from jaxfuse import cli, train
from jaxfuse.engine import run
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.io.tables import write_json
from tests.made_cases import MODALITIES, nested_cubes, save_volume, write_case

ROOT = Path(__file__).resolve().parents[1]
CONFIG = f"{ROOT / 'configs' / 'cmff.py'}:tiny"
ASKED = ("--config", CONFIG, "--workdir=run")
KEPT = {"metrics.jsonl": '{"step": 2, "phase": "transition", "split": "train", "a": 1.0}\n', "figures/x": "seen"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Four cases of 20 x 20 x 20 voxels without fault."""
    root = tmp_path_factory.mktemp("sound")
    for number in range(4):
        rng = np.random.default_rng(number)
        label = nested_cubes((20, 20, 20), {2: 3, 1: 2, 4: 1}, center=(9, 9, 9))
        images = {m: rng.integers(1, 99, (20, 20, 20)).astype(np.int16) for m in MODALITIES}
        write_case(root, f"case_{number}", images | {"seg": label})
    return root


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Runs the command in this process: arguments -> exit code, standard output and standard error."""
    monkeypatch.setenv("JAXFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "compilation_cache", lambda folder: None)  # that of the tests stays in use
    saved = flagsaver.save_flag_values()

    def command(*arguments: object) -> tuple[int, str, str]:
        flags.FLAGS.unparse_flags()
        train.define_flags()
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as end:
                cli.run(train.main)
        finally:
            flagsaver.restore_flag_values(saved)
            flags.FLAGS.mark_as_parsed()
        out, err = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return command


@pytest.fixture
def refused(call, tmp_path):
    """Runs the command in a workdir that was refused before; returns the sentence with which it is refused."""
    folder = tmp_path / "run"
    write_json(folder / "config.json", dict.fromkeys(("preset", "row", "variant"), ""))
    for name, content in KEPT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    def run(*options: object, given: Sequence[str] = ASKED) -> str:
        code, _, err = call(*given, *options)
        assert {name: (folder / name).read_text() for name in KEPT} == KEPT
        return sentence(code, err)

    return run


def sentence(code: int, err: str) -> str:
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removeprefix("error: ").removesuffix("\n")


def change(kind: str, new: Callable[[np.ndarray], np.ndarray], **place: object) -> Callable[[Path], None]:
    """Returns a function that writes a volume of a case anew."""

    def spoil(case: Path) -> None:
        path = case / f"case_1_{kind}.nii.gz"
        save_volume(path, new(np.array(nib.load(path).dataobj)), **place)  # pyright: ignore

    return spoil


def remove(kind: str) -> Callable[[Path], None]:
    """Returns a function that takes a volume of a case away."""
    return lambda case: (case / f"case_1_{kind}.nii.gz").unlink()


def cut_short(case: Path) -> None:
    path = case / "case_1_t1.nii.gz"
    path.write_bytes(path.read_bytes()[:-3000])


def no_cases(case: Path) -> None:
    shutil.rmtree(case.parent)
    case.parent.mkdir()


SHAPE = "case case_1: shape (19, 20, 20) of case_1_flair.nii.gz differs from (20, 20, 20)"
PLACE = ("case case_1: affine [1 0 0 4;", "case_1_flair.nii.gz differs from [1 0 0 0;", "resample")
STRANGE = "case case_1: case_1_seg.nii.gz holds the label values 0, 1, 2, 9"
NO_TUMOR = ("phase transition: case case_1 has no tumor voxel to center", 'set sampling="brain"')


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (remove("t2"), ("case case_1 has no t2 image", "case_1_t2.nii.gz is not in", "add the file")),
        (cut_short, ("case_1_t1.nii.gz is damaged or cut short", "download it again")),
        (change("flair", lambda image: image[:-1]), (SHAPE, "resample")),
        (change("flair", lambda image: image, origin_mm=(4, 0, 0)), PLACE),
        (change("seg", lambda label: label + (label == 4) * np.uint8(5)), (STRANGE, "correct the file")),
        (change("seg", np.zeros_like), NO_TUMOR),
        (remove("seg"), ("case case_1 has no label", "add the file")),
        (no_cases, ("no case lies under", "a folder per case is expected")),
        (lambda case: shutil.rmtree(case.parent), ("is not a folder; give the folder that holds the cases",)),
    ],
)
def test_data_with_a_fault(refused, sound, tmp_path, spoil: Callable[[Path], None], told):
    shutil.copytree(sound, tmp_path / "data")
    # The faulty case trains, whatever way a drawn split would have gone.
    (tmp_path / "split.json").write_text('{"train": ["case_1", "case_2"], "val": ["case_3"]}')
    spoil(tmp_path / "data" / "case_1")
    options = ["--config.data.root=data", "--config.data.split=split.json", "--config.transition.sampling=tumor"]
    message = refused(*options)
    assert [part for part in told if part not in message] == [], message


@pytest.mark.parametrize("sampling", ["tumor", "foreground"])
def test_a_phase_without_loss_that_places_patches_by_labels_needs_them(refused, sound, tmp_path, sampling):
    shutil.copytree(sound, tmp_path / "data")
    remove("seg")(tmp_path / "data" / "case_1")
    options = ["--config.data.root=data", "--config.schedule=('transition',)", "--config.result=('transition',)"]
    assert "case case_1 has no label file in" in refused(*options, f"--config.transition.sampling={sampling}")


def test_stop_while_cases_are_prepared(call, sound, monkeypatch):
    def enter(stop: StopRequest) -> StopRequest:
        stop.requested = signal.SIGTERM
        return stop

    monkeypatch.setattr(StopRequest, "__enter__", enter)
    code, out, err = call(*ASKED, f"--config.data.root={sound}")
    assert (code, err) == (128 + signal.SIGTERM, "SIGTERM: stopped while preparing cases; the same command goes on\n")
    assert "preparing cases: 1 of 4" in out
    assert not Path("run", "dataset.json").exists()


SMALL = {"network.unet.levels": 2, "network.unet.base": 2, "fusion.args.fusion.fusion_width": 2}
SMALL |= {"transition.args.cycle.critic_layers": 1, "transition.args.cycle.critic_base": 2}
SMALL |= {f"{phase}.steps": 1 for phase in ("transition", "fusion")}
SMALL |= {f"{phase}.patch": "(24,8,8)" for phase in ("transition", "fusion")}


@pytest.mark.slow
def test_patch_larger_than_a_volume_is_refused_and_padding_helps(call, sound):
    asked = (*ASKED, f"--config.data.root={sound}", *(f"--config.{name}={value}" for name, value in SMALL.items()))
    message = sentence(*call(*asked)[::2])
    assert "phase transition: the patch (24, 8, 8) is larger than the volume (20, 20, 20) of case case_" in message
    assert "set pad=True" in message
    # The same workdir: the refused call has bound it to nothing.
    code, out, err = call(*asked, "--config.transition.pad=True", "--config.fusion.pad=True")
    assert (code, err) == (0, "")
    assert "Done: " in out
    assert Path("run", "report.html").is_file()


LACKS, ODD = "names an option that the config lacks", "is not understood;"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--config.fusion.stepz=3", f'{LACKS}; did you mean "steps"?'),
        ("--config.seed=1 --config.fusion.optimizers.net.lr=1e-3", LACKS),
        ("--config.nosuch=3", LACKS),
        ("--config.fusion.nosuch.deep=3", LACKS),
        ("--config.fusion.steps.deep=3", LACKS),
        ("--config.fusion.steps=abc", f"{ODD} a whole number is expected"),
        ("--config.seed=1.5", f"{ODD} a whole number is expected"),
        ("--config.data.val_fraction=half", f"{ODD} a number is expected"),
        ("--config.fusion.pad=maybe", f"{ODD} True or False is expected"),
        ("--config.fusion.patch=(16,", f'{ODD} a tuple, such as "(16,16,16)"'),
        ("--config.data=3", f"{ODD} a value of one option below this group is expected"),
    ],
)
def test_an_option_is_named_as_it_was_given(refused, options, told):
    *_, last = options.split()
    assert f"{last} {told}" in refused(*options.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*ASKED, "--workdri=x"], "--workdri is no option of this command; did you mean --workdir? see the options"),
        ([*ASKED, "--nosuch=1"], "--nosuch is no option of this command; see the options with --helpshort"),
        ([*ASKED, "--workdir"], "Missing value for flag --workdir"),
        ([*ASKED, "stray"], "'stray' is not understood; every setting is a flag, such as --workdir DIR"),
        ([], "--config is not given and has to be; a recipe may also stand first, such as jaxfuse train cmff; see the"),
        (["--config=configs/nosuch.py"], "the config file configs/nosuch.py is not there; name one such as --config"),
        (["--config", "nosuch.py:tiny", "--config.seed=1"], "the config file nosuch.py is not there"),
        (["--config.seed=1"], "--config.seed is an option of a recipe, and none is named; name it with --config"),
        (["cmff:tiny", "--preset=paper"], "the preset is given twice, in cmff:tiny and as --preset=paper; leave one"),
        (["--config", f"{CONFIG},row=nosuch"], "row 'nosuch' is not known; choose one of ours, S_A, S_B,"),
    ],
)
def test_arguments_that_are_not_understood(refused, arguments, told):
    assert told in refused(given=arguments)


def test_data_that_changed_since_the_run_began(refused, sound, tmp_path):
    shutil.copytree(sound, tmp_path / "data")
    (tmp_path / "data" / "case_3" / "case_3_t2.nii.gz").unlink()
    refused("--config.data.root=data")  # the config is written, nothing is trained
    noted = {"train": ["case_0", "case_1"], "val": ["case_2"], "fingerprint": "abc"}
    (tmp_path / "run" / "dataset.json").write_text(json.dumps(noted))
    (tmp_path / "run" / "checkpoints").mkdir()
    shutil.copytree(sound / "case_3", tmp_path / "data" / "case_3", dirs_exist_ok=True)
    message = refused("--config.data.root=data")
    counts = [f"{count} training and 1 validation cases" for count in (2, 3)]
    told = ["the data have changed since the run in", *counts, "restore them or name another --workdir"]
    assert [part for part in told if part not in message] == [], message
