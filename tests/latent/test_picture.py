"""The pictures of a run say what the model does."""

import numpy as np
import torch
from matplotlib.image import imread

from sluicegate.latent import picture
from sluicegate.latent.model import Autoencoder


def _reader_of_quarters():
    """A model whose amounts are the brightness of its image's four quarters, and nothing else."""
    model = Autoencoder((4, 4, 1), ["a", "b", "c", "d"], hidden=(4,), k=1)
    quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((2, 2))).ravel()
    with torch.no_grad():
        model.encoder[0].weight.copy_(torch.tensor(quarters[None] == np.arange(4)[:, None]) / 4.0)
        model.encoder[0].bias.zero_()
        model.amount.weight.copy_(torch.eye(4))
        model.amount.bias.zero_()
    images = np.stack([(quarters == j).reshape(4, 4) for j in (0, 1, 2, 2)]).astype(np.float32)
    return model, images


def test_amounts_are_means_by_class_and_block():
    model, images = _reader_of_quarters()
    images[3] *= 0.5
    amounts = picture.amounts_of(model, images, np.array([0, 1, 2, 2]))
    wanted = np.diag([1, 1, 0.75, 0])  # none is of class d
    np.testing.assert_allclose(amounts, wanted, atol=1e-6)


def test_the_picture_of_amounts_is_dark_where_they_are_large(tmp_path):
    path = tmp_path / "amounts.png"
    picture.draw_amounts(path, np.eye(2), ["a", "b"])
    one = imread(path)
    picture.draw_amounts(path, 1 - np.eye(2), ["a", "b"])
    other = imread(path)
    assert one.shape == other.shape
    assert (one != other).any()
    assert abs(one.mean() - other.mean()) < 1e-3  # the same squares, in other places
