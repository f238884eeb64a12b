"""The topic files are read strictly: what is misspelt would be a permission or a retention that nobody set."""

from pathlib import Path

import pytest
import yaml

from contracts.make import SCHEMAS
from contracts.topics import TopicFileError, read_topics

HEADS = yaml.safe_load((SCHEMAS / "topics" / "heads.yaml").read_text())


UNFIT = {
    "one more": HEADS | {"retention": 1},
    "one less": {name: value for name, value in HEADS.items() if name != "messages"},
    "of a reader": HEADS | {"readers": [{"user": "{agency}", "groups": "x"}]},
    "of a writer": HEADS | {"writers": [{}]},
}


@pytest.mark.parametrize("which", UNFIT)
def test_a_file_with_other_fields_is_refused(which: str, tmp_path: Path) -> None:
    (tmp_path / "heads.yaml").write_text(yaml.dump(HEADS))
    assert [file.kind for file in read_topics(tmp_path)] == ["heads"]
    (tmp_path / "heads.yaml").write_text(yaml.dump(UNFIT[which]))
    with pytest.raises(TopicFileError, match=r"heads\.yaml"):
        read_topics(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopicFileError, match="no topic files"):
        read_topics(tmp_path)
