"Attention of labels over positions, against loops written here, and its edges."
import pytest, torch
from cxr_workbench.attention import LabelLinear, attend, label_linear, position_attention, warn_of_few_cells


def draw(B=3, C=4, D=6, h=2, w=5):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(C, D, generator=g, dtype=torch.float64)
    return q, torch.randn(B, D, h, w, generator=g, dtype=torch.float64)


def test_equals_the_loop():
    q, F = draw()
    a = position_attention(q, F)
    v = attend(a, F)
    for b in range(3):
        for c in range(4):
            cells = [(i, j) for i in range(2) for j in range(5)]
            weights = torch.stack([torch.exp(q[c] @ F[b, :, i, j]/6**.5) for i, j in cells])
            weights = weights/weights.sum()
            assert torch.allclose(a[b, c].flatten(), weights)
            expected = sum(k*F[b, :, i, j] for k, (i, j) in zip(weights, cells))
            assert torch.allclose(v[b, c], expected)


def test_queries_per_image():
    q, F = draw()
    own = torch.stack([q, 2*q, -q])
    a = position_attention(own, F)
    for b in range(3): assert torch.allclose(a[b:b+1], position_attention(own[b], F[b:b+1]))


def test_attention_of_one_map_may_read_another():
    q, F = draw()
    assert attend(position_attention(q, F), torch.randn(3, 9, 2, 5, dtype=F.dtype)).shape == (3, 4, 9)


@pytest.mark.parametrize('size', [0., 1e4])
def test_extreme_scores_are_finite_and_add_to_one(size):
    q, F = (t.float()*size for t in draw())
    q.requires_grad_()
    a = position_attention(q, F)
    assert torch.isfinite(a).all()
    assert torch.allclose(a.sum((2, 3)), torch.ones(3, 4), atol=1e-5)
    assert torch.isfinite(torch.autograd.grad(attend(a, F).sum(), q)[0]).all()


def test_one_cell_has_all_attention_whatever_the_query():
    q, F = draw(h=1, w=1)
    assert torch.equal(position_attention(q, F), torch.ones(3, 4, 1, 1, dtype=F.dtype))


def test_mixed_precision_still_adds_to_one():
    q, F = (t.float() for t in draw())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        a = position_attention(q, F)
        v = attend(a, F)
    assert torch.allclose(a.float().sum((2, 3)), torch.ones(3, 4), atol=1e-2)
    assert torch.isfinite(v).all()


def test_heads_are_label_specific():
    head, v = LabelLinear(4, 6), torch.randn(3, 4, 6)
    one = v.clone()
    one[:, 2] += 1
    changed = (head(one) != head(v)).any(0)
    assert changed.tolist() == [False, False, True, False]
    assert torch.allclose(label_linear(v, head.weight), head(v) - head.bias, atol=1e-6)


def test_what_does_not_fit_is_refused():
    q, F = draw()
    for wrong in ((q[0], F), (q[:, :3], F), (q, F[0])):
        with pytest.raises(ValueError, match=r'feature_map \(B, D, h, w\)'): position_attention(*wrong)
    with pytest.raises(ValueError, match=r'attention \(3, 4, 1, 1\).*feature_map \(3, 6, 2, 5\)'):
        attend(torch.ones(3, 4, 1, 1), F)


@pytest.mark.parametrize('h, w', [(1, 1), (1, 7), (7, 1)])
def test_a_grid_without_a_choice_is_named(h, w):
    with pytest.warns(UserWarning, match=f'{h} x {w} cells of 32 pixels.*min_cells'):
        warn_of_few_cells((h, w), 32, 'this test')


def test_a_grid_with_a_choice_is_not(recwarn):
    for cells in [(2, 2), (2, 9), (8, 8)]: warn_of_few_cells(cells, 32, 'this test')
    assert not len(recwarn)
