"""Files of TensorBoard, as TensorBoard reads them: by phase, and without what a later file outdates."""

from contextlib import closing

from experiments.failures.ends import event_rows
from jaxfuse.engine.run_folder.event_files import FOLDER, EventFiles


def _shown(workdir):
    return [(tag, step) for tag, step, _ in event_rows(workdir)]


def test_each_phase_has_a_folder_of_its_own(tmp_path):
    files = EventFiles(tmp_path)
    files.write(1, "transition", "train", {"loss": 0.5})
    files.write(1, "fusion", "val", {"dice/ET": 0.75})
    # Not closed: what a killed process has written must already be there.
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["fusion", "transition"]
    assert _shown(tmp_path) == [("fusion/val/dice/ET", 1), ("transition/train/loss", 1)]
    files.close()


def test_a_run_that_goes_on_outdates_later_steps_and_later_phases(tmp_path):
    first = EventFiles(tmp_path)
    for phase in ("transition", "fusion"):
        for step in (1, 2, 3):
            first.write(step, phase, "train", {"loss": 1.0})
    first.close()
    second = EventFiles(tmp_path)
    second.forget("transition", 2)
    second.forget("fusion", -1)
    second.forget("absent", -1)
    assert _shown(tmp_path) == [("transition/train/loss", 1), ("transition/train/loss", 2)]
    second.write(3, "transition", "train", {"loss": 2.0})
    second.close()
    assert [float.fromhex(value) for _, _, value in event_rows(tmp_path)][-1] == 2.0
    assert len(_shown(tmp_path)) == 3
    assert not (tmp_path / FOLDER / "absent").exists()


def test_a_record_that_a_kill_has_cut_hides_none_of_the_next_file(tmp_path):
    with closing(EventFiles(tmp_path)) as files:
        files.write(1, "fusion", "train", {"loss": 1.0})
    (path,) = (tmp_path / FOLDER / "fusion").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with closing(EventFiles(tmp_path)) as files:
        files.write(2, "fusion", "train", {"loss": 1.0})
    assert _shown(tmp_path) == [("fusion/train/loss", 2)]
