"""Without a fault the rig runs a federation, and the invariants find what is wrong with it."""

import pytest

from tests.faults.invariants import check_all

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


def test_a_run_without_faults_holds_every_invariant(federate):
    federation = federate()
    federation.start_all()
    federation.finish()
    check_all(federation)
