import pytest

from compress.dicom import headers


@pytest.fixture(autouse=True)
def silent():
    """As in a worker process: pydicom says nothing."""
    with headers.silent():
        yield
