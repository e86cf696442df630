import pytest

from compress.dicom import parsing


@pytest.fixture(autouse=True)
def silent():
    """As in a worker process: pydicom says nothing."""
    with parsing.silent():
        yield
