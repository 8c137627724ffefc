"""A researcher's own mechanism: runnable with its price, or without a claim."""

from collections.abc import Iterator
from typing import Any

import dp_accounting
import pytest
import torch

from adpfl.errors import ConfigError, PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import laplace_draws
from adpfl.privacy import registry
from adpfl.privacy.accounting import guarantee
from adpfl.privacy.certificate import certify_configuration
from adpfl.privacy.engine import PrivacyEngine
from adpfl.privacy.plan import RigorousPrivacy, Sampling, UnsafeNonePrivacy
from adpfl.privacy.registry import ResearchMechanism, register


def perturb(total: Any, *, clip_norm: float, noise_multiplier: float, key: Any, step: int) -> Any:
    draws = laplace_draws(key, scale_bits=10, step=step, first_index=0, count=total.numel())
    return total + torch.from_numpy(draws) * (clip_norm * noise_multiplier / 2048)


def price(noise_multiplier: float, dimension: int) -> dp_accounting.DpEvent:
    return dp_accounting.LaplaceDpEvent(noise_multiplier)


@pytest.fixture(autouse=True)
def own_mechanisms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_mechanisms", {})
    register(ResearchMechanism("priced", clip_order=1, perturb=perturb, event=price))
    register(ResearchMechanism("unpriced", clip_order=2, perturb=perturb))
    return iter(())


def rigorous(mechanism: str, **changes: Any) -> RigorousPrivacy:
    keys: dict[str, Any] = {
        "mode": "rigorous",
        "mechanism": mechanism,
        "threshold": {"method": "fixed", "clip_norm": 2.0},
        "noise_multiplier": 10.0,
        "sampling": {"mode": "full"},
    }
    return RigorousPrivacy.model_validate(keys | changes)


def test_a_priced_mechanism_is_accounted_by_its_event() -> None:
    found = guarantee(rigorous("registered:priced"), unit_count=10, dimension=4, steps=100)
    library = certify_configuration(
        mechanism="laplace_l1", noise_multiplier=10.0, dimension=4, delta=1e-5, steps=100
    )
    assert library.epsilon <= found.epsilon < 1.3 * library.epsilon
    assert found.mechanism == "registered:priced"
    named = certify_configuration(
        mechanism="registered:priced", noise_multiplier=10.0, dimension=4, delta=1e-5, steps=100
    )
    assert named.epsilon == found.epsilon


def test_a_priced_mechanism_clips_in_its_own_norm_and_adds_its_own_noise() -> None:
    plan = rigorous("registered:priced", noise_multiplier=1e-3)
    engine = PrivacyEngine(plan, unit_count=2, dimension=4, key=KeystreamKey.fresh())
    engine.sample(0)
    step = engine.release(0, [[torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])]])
    assert torch.allclose(step.mean_gradient, torch.tensor([0.75, 0.25, 0.0, 0.5]), atol=0.03)
    assert step.clipped == 1  # L1 norm 4 above C = 2
    assert step.noise_scale == pytest.approx(2e-3)


def test_without_a_price_it_is_refused_in_mode_rigorous_and_runs_in_mode_none() -> None:
    with pytest.raises(ConfigError, match="has no accounting event"):
        guarantee(rigorous("registered:unpriced"), unit_count=10, dimension=4, steps=1)
    plan = UnsafeNonePrivacy(
        mode="none",
        sampling=Sampling(mode="full"),
        mechanism="registered:unpriced",
        noise_multiplier=1.0,
        clip_norm=1.0,
    )
    found = guarantee(plan, unit_count=10, dimension=4, steps=1)
    assert found.epsilon == float("inf")
    assert "unsafe" in found.mechanism
    engine = PrivacyEngine(plan, unit_count=1, dimension=4, key=KeystreamKey.fresh())
    engine.sample(0)
    assert torch.count_nonzero(engine.release(0, [[torch.zeros(1, 4)]]).mean_gradient) == 4


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"must be a registered mechanism \(known: priced, unpriced\)"):
        guarantee(rigorous("registered:other"), unit_count=10, dimension=4, steps=1)


def test_a_name_stands_for_one_mechanism() -> None:
    register(ResearchMechanism("priced", clip_order=1, perturb=perturb, event=price))
    with pytest.raises(PrivacyError, match="mechanism priced is registered already"):
        register(ResearchMechanism("priced", clip_order=2, perturb=perturb))


def test_an_event_that_cannot_be_accounted_is_refused() -> None:
    def odd(noise_multiplier: float, dimension: int) -> dp_accounting.DpEvent:
        return dp_accounting.UnsupportedDpEvent()

    register(ResearchMechanism("odd", clip_order=1, perturb=perturb, event=odd))
    with pytest.raises(ConfigError, match="cannot account for its event"):
        guarantee(rigorous("registered:odd"), unit_count=10, dimension=4, steps=1)


def test_a_step_of_an_own_mechanism_uses_its_key_once() -> None:
    key = KeystreamKey.fresh()
    for repeated in (False, True):
        engine = PrivacyEngine(rigorous("registered:priced"), unit_count=1, dimension=4, key=key)
        engine.sample(0)
        if repeated:
            with pytest.raises(PrivacyError, match="last step released under this key"):
                engine.release(0, [[torch.ones(1, 4)]])
        else:
            engine.release(0, [[torch.ones(1, 4)]])
