import pytest

from medexp.data.images.prepared import prepare_images
from tests.data.images.small_images import PHANTOMS, kaggle_folder, slices_folder


@pytest.fixture
def prepare(tmp_path, image_config):
    """Both sources, but for those given."""

    def run(sources=("brats", "kaggle"), slices=True, kaggle=True, **changed):
        slices_dir, kaggle_dir = tmp_path / "slices", tmp_path / "kaggle"
        if not slices_dir.exists():
            slices_folder(slices_dir)
        if not kaggle_dir.exists():
            kaggle_folder(kaggle_dir)
        dirs = (str(slices_dir) if slices else None, str(kaggle_dir) if kaggle else None)
        return prepare_images(*dirs, image_config(**changed), PHANTOMS, tmp_path / "cache", sources)

    return run
