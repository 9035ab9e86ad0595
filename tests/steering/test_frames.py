"""Orthogonal frames: nearest, with a common direction, and the moves that keep them."""

import torch

from sluicegate.steering.frames import basis, lowdin, simplex, tangent, without


def draw(k, d, seed=0):
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lowdin_gives_the_nearest_orthonormal_rows():
    rows = draw(5, 9)
    rows = rows / rows.norm(dim=1, keepdim=True)
    frame = lowdin(rows)
    assert torch.allclose(frame @ frame.T, torch.eye(5, dtype=torch.float64), atol=1e-12)
    for seed in range(5):  # any other frame is farther
        other = lowdin(frame + 0.1 * draw(5, 9, seed + 1))
        assert (rows - frame).norm() < (rows - other).norm()


def test_all_rows_of_a_simplex_frame_have_the_same_share_of_the_common_direction():
    common = draw(1, 9)[0]
    frame = simplex(common, draw(4, 9, 1))
    assert torch.allclose(frame @ frame.T, torch.eye(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(frame @ common / common.norm(), torch.full((5,), 5**-0.5, dtype=torch.float64))


def test_a_frame_of_one_is_the_common_direction():
    common = draw(1, 9)[0]
    assert torch.allclose(simplex(common, draw(0, 9)), (common / common.norm())[None])


def test_what_is_spared_is_taken_out_and_a_basis_counts_dimensions():
    spared = basis(torch.cat([draw(2, 9), draw(2, 9)]))
    assert spared.shape == (2, 9)
    assert (without(draw(4, 9, 3), spared) @ spared.T).abs().max() < 1e-14
    assert basis(torch.zeros(0, 9)).shape == (0, 9)


def test_a_tangent_move_keeps_the_angles_to_first_order():
    frame = lowdin(draw(5, 9))
    move = 1e-4 * tangent(draw(5, 9, 2), frame)
    bent = (frame + move) @ (frame + move).T - torch.eye(5, dtype=torch.float64)
    assert bent.abs().max() < 1e-6
    assert move.norm() > 1e-5
