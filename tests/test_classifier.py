"What methods of one stage share: views from their settings, the recipe, and what stands on the pool."
import pytest, torch
from torch import nn
from cxr_workbench.classifier import Classifier, make_stage, make_view
from cxr_workbench.consistency import StrongView, WeakView


@pytest.mark.parametrize('setting', [None, False])
def test_a_view_that_is_off_is_none(setting): assert make_view(setting, WeakView) is None


def test_a_view_comes_from_its_setting():
    own = nn.Identity()
    assert make_view(own, WeakView) is own
    assert make_view(True, WeakView).flip == WeakView().flip
    assert make_view(dict(flip=.1), WeakView).flip == .1
    assert make_view(dict(ops=0), StrongView).ops == 0


@pytest.mark.parametrize('setting, says', [
    (dict(flips=.1), r"WeakView has no argument \['flips'\]: there are \['flip', 'shift'\]"),
    (.5, '0.5 is no view'), ('strong', "'strong' is no view"), (dict(flip=2.), 'flip=2.0')])
def test_a_setting_that_is_none_is_refused(setting, says):
    with pytest.raises(ValueError, match=says): make_view(setting, WeakView)


def test_learning_rates_are_absolute():
    stage = make_stage(lr=1e-3, backbone_lr=1e-5, weight_decay=.1, epochs=2, sampler='all')
    assert stage.groups == (('backbone', 1e-5, .1), ('', 1e-3, .1)) and (stage.epochs, stage.sampler) == (2, 'all')
    assert make_stage(lr=1e-3, epochs=2).groups == (('', 1e-3, 0.),)


def build(**kw): return Classifier(['a', 'b'], backbone='test_resnet', **kw)


def test_a_recipe_is_the_class_own_with_what_is_given():
    assert build().recipe() == [make_stage(epochs=20, lr=2e-3, weight_decay=.05)]
    assert build(epochs=3, ema=.9).recipe() == [make_stage(epochs=3, lr=2e-3, weight_decay=.05, ema=.9)]


def test_an_argument_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"Classifier has no argument \['epoch'\].*'weak'.*'epochs'"): build(epoch=3)


def test_scores_are_the_head_on_the_pool():
    method, x = build().eval(), torch.rand(2, 1, 64, 64)
    logits, probes = method.look(x)
    assert torch.equal(logits, method.head(method.backbone.features(x)))
    assert torch.equal(probes['features'], method.backbone.pool(probes['feature_map']))
    assert method.cam_targets() == {'feature_map': method.backbone.tap}
