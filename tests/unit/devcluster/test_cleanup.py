"""What is left below .cluster once a cluster is gone."""

from pathlib import Path

from devcluster.cleanup import remove_state
from devcluster.paths import Paths


def test_the_records_of_test_runs_outlive_the_cluster(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for folder in ("records", "log", "etcd"):
        (paths.state / folder).mkdir(parents=True)
        (paths.state / folder / "file").touch()
    remove_state(paths, [paths.log])
    assert sorted(path.name for path in paths.state.iterdir()) == ["log", "records"]
    assert (paths.state / "records" / "file").exists()
